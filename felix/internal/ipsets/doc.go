// Package ipsets keeps the kernel's IP sets equal to what felix wants, by netlink and
// without starting a process. There are two targets over the same sets: [Sets] creates
// and destroys them, [Members] fills them. A set has to exist before a rule names it
// and has to outlive that rule; its members come and go without touching any rule.
//
// Sets are felix's by their name: cali4-… and cali6-…, and cali4t… and cali6t… for the
// temporary ones that a set is rebuilt in before both are swapped. All others are left
// alone. IP sets tell nobody when they change, so [Kernel.Drifted] compares the sets'
// headers, which is cheap, with what was written.
package ipsets
