package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/nodestart"
)

const (
	// patience is how long etcd may take to answer before the programs of a host that was a
	// node before are started without it.
	patience = 500 * time.Millisecond
	// sayAgain is how often it is told that it waits.
	sayAgain = time.Minute
	// refusedRetry is between two tries of a start-up that is refused while the programs run
	// already.
	refusedRetry = 10 * time.Second
)

// startup is how far the start-up has got.
type startup struct {
	who

	// done says that this host is written to etcd as a node, fromRecord that its programs run by what it
	// remembers.
	done, fromRecord bool
	// why is why it is not done.
	why string
}

// begin finds out who this host is: from etcd, or, if that does not answer, from what the host
// remembers. A host that has never been a node waits for etcd. An error is one that waiting does
// not mend.
func (d *daemon) begin(ctx context.Context) error {
	var said time.Time
	for limit := patience; ; limit = pingLimit {
		err := d.etcd.ask(ctx, limit)
		if err == nil {
			if err = d.startUp(ctx, d.cfg.Out); err == nil || !passing(err) {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		wrong := d.remember(err)
		switch {
		case wrong == nil:
			return nil
		case !errors.Is(wrong, nodestart.ErrNoRecord):
			return wrong
		case errors.Is(err, etcdstore.ErrUnauthorized), errors.Is(err, nodestart.ErrNodeUnreadable):
			return err
		}
		if time.Since(said) > sayAgain {
			said = time.Now()
			fmt.Fprintf(d.cfg.Out, "Waiting for etcd: %s; %s\n", oneLine(err), oneLine(wrong))
		}
		pauseFor(ctx, pingRetry)
	}
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// startUp carries out the start-up.
func (d *daemon) startUp(ctx context.Context, out io.Writer) error {
	cfg := d.start
	cfg.Out = out
	w, err := makeNode(ctx, cfg)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.startup.why = err.Error()
		return err
	}
	d.startup = startup{who: w, done: w.Held == "", why: w.Held}
	return nil
}

// remember takes from the host's record who it is.
func (d *daemon) remember(why error) error {
	w, err := fromRecord(d.start)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.startup.why = why.Error()
	if err != nil {
		return err
	}
	d.startup.who, d.startup.fromRecord = w, true
	fmt.Fprintf(d.cfg.Out, "%s; the start-up is made up for by itself once that is mended\n", oneLine(why))
	return nil
}

// makeUp carries out the start-up of a host whose programs run already, once etcd answers, and is the
// cluster's own. What it prints is shown when it is news.
func (d *daemon) makeUp(ctx context.Context) {
	shown := ""
	for ctx.Err() == nil && !d.startedUp() {
		pause := pingRetry
		if d.etcd.ask(ctx, pingLimit) == nil {
			var lines bytes.Buffer
			err := d.startUp(ctx, &lines)
			if text := lines.String(); text != shown && ctx.Err() == nil {
				shown = text
				fmt.Fprint(d.cfg.Out, text)
			}
			if err != nil && ctx.Err() == nil {
				d.log.Error("the start-up fails; the programs run on by what this host remembers", logattr.Err, err)
			}
			if !passing(err) {
				pause = refusedRetry
			}
		}
		if !d.startedUp() {
			pauseFor(ctx, pause)
		}
	}
}

func (d *daemon) startedUp() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.startup.done
}

// passing is whether an error goes away when etcd is as it should be, with nothing changed on
// this host.
func passing(err error) bool {
	for _, of := range []error{
		etcdstore.ErrUnavailable, etcdstore.ErrUnauthorized, etcdstore.ErrLocked, etcdstore.ErrNoSpace, nodestart.ErrNodeUnreadable, context.DeadlineExceeded,
	} {
		if errors.Is(err, of) {
			return true
		}
	}
	return false
}
