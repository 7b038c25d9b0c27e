package etcdstore

import (
	"context"
	"time"
)

// Probing gives the options for a watch that notices the loss of etcd sooner.
func Probing(audit, probe, silence time.Duration) WatchOptions {
	return WatchOptions{Audit: audit, probe: probe, silence: silence}
}

// LostRace is lostRace.
var LostRace = lostRace

// RaiseThenCommit is Commit with something that happens after it has looked.
func (c *Client) RaiseThenCommit(ctx context.Context, meanwhile func(), writes ...Write) error {
	all, _, err := c.raise(ctx, writes)
	if err != nil {
		return err
	}
	meanwhile()
	_, err = c.commit(ctx, all)
	return err
}

// SpoilToken makes the token of the client one that etcd does not know.
func (c *Client) SpoilToken() {
	c.login.mu.Lock()
	defer c.login.mu.Unlock()
	c.login.token = "spoilt.1"
}
