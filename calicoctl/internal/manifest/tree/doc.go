// Package tree reads YAML and JSON into one plain tree that knows where each value
// stood, and binds such a tree to Go structs. It is pure.
//
// It reads YAML with the semantics of version 1.2: nothing is guessed. A scalar is
// its text until a field asks for a number or a truth value, so that a node called
// n, a label value y and a key no stay what they are. Each fault found carries file,
// line, column and path, and reading goes on behind it, so that all faults of a file
// are reported at once.
//
//	text ──Documents──► Document ──Parse──► Node ──Bind──► struct
//	                        └───────── Faults ───────┘
package tree
