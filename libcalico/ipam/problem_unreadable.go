package ipam

import "fmt"

// unreadable finds values of no use.
type unreadable struct{ noRemedy }

func (unreadable) find(c *checker) {
	for _, k := range c.unreadable {
		c.add(Problem{ID: ID{Kind: ProblemUnreadable}, Text: fmt.Sprintf("the stored value of %v cannot be read", k)})
	}
	for _, e := range c.endpoints {
		if e.unreadable {
			c.add(Problem{
				ID:   ID{Kind: ProblemUnreadable, Node: e.key.Node, Endpoint: e.key.Name},
				Text: fmt.Sprintf("the stored value of %v cannot be read", e.key),
			})
		}
	}
}
