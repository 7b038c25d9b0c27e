// Package routes keeps the routes to containers, their neighbour entries and the
// gateway's address equal to what felix wants: three targets over one netlink handle.
//
// Routes and permanent neighbour entries are felix's by the interface that they go out
// of: one whose name begins with a workload prefix ("cali"). Routes carry the protocol
// boot, so that "ip route" prints them as people know them. Routes that the kernel itself
// makes are not touched.
package routes
