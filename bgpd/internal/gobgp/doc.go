// Package gobgp is the edge to GoBGP, the library that speaks BGP. A [Speaker] runs one
// server; its peers and its advertised paths are targets of package reconcile, and what
// peers say comes back as [Event]s, which never block GoBGP.
//
//	reconcile.Table ──Apply──► Speaker.Peers, Speaker.Paths ──► GoBGP ◄──TCP 179──► peers
//	calc.Engine ◄──Speaker.Events (up, down, paths, End-of-RIB) ──┘
//
// What GoBGP v3 does not do by itself is done here: a peer whose session fell is removed
// and added again, because GoBGP would let it sit idle for 5 s and refuse its
// connections meanwhile; MD5 secrets of removed peers are taken off the listener; and
// the reason why a session is down, which GoBGP only logs, is kept for people.
//
// Programs that use this package must be built with "//go:debug multipathtcp=0": Go's
// listeners are Multipath TCP sockets by default, and those have no MD5 signatures.
package gobgp
