package ipam

import "fmt"

// overlapping finds blocks that share addresses.
type overlapping struct{ noRemedy }

func (overlapping) find(c *checker) {
	for n, cidr := range c.sorted {
		if n > 0 && c.sorted[n-1].Overlaps(cidr) {
			c.add(Problem{
				ID: ID{Kind: ProblemOverlap, Block: cidr}, Text: fmt.Sprintf("block %s overlaps with block %s", cidr, c.sorted[n-1]),
				Advice: "addresses in both may be given out twice: release one block's addresses",
			})
		}
	}
}
