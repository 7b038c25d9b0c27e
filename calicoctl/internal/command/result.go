package command

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/calicoctl/internal/printer"
	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/model"
)

// outputFlag is -o of the commands whose answer is text, or JSON for programs.
type outputFlag struct {
	format string
}

func (o *outputFlag) flag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "", "output `format`: json; without it, text")
	mustComplete(cmd, "output", []string{"json"})
}

func (o *outputFlag) check() error {
	if o.format != "" && o.format != "json" {
		return usagef("unknown output format %q: expected json%s", o.format, tree.DidYouMean(o.format, []string{"json"}))
	}
	return nil
}

func (o *outputFlag) json() bool { return o.format == "json" }

// writeJSON writes one JSON document.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table writes rows in columns, the first being the headings.
func (env *Env) table(rows [][]string) error { return printer.WriteTable(env.Stdout, rows) }

// objectName is how JSON results name an object.
type objectName struct {
	APIVersion   string `json:"apiVersion"`
	Kind         string `json:"kind"`
	Namespace    string `json:"namespace,omitempty"`
	Name         string `json:"name"`
	Node         string `json:"node,omitempty"`
	Orchestrator string `json:"orchestrator,omitempty"`
	Workload     string `json:"workload,omitempty"`
}

func objectNameOf(o manifest.Object) objectName {
	n := objectName{APIVersion: o.Kind.APIVersion, Kind: o.Kind.Name, Name: nameOf(o.Key)}
	switch k := o.Shown().(type) {
	case dialect.NameKey:
		n.Namespace, n.Name = k.Namespace, k.Name
	case model.BGPPeerKey:
		n.Node = k.Node
	case model.HostEndpointKey:
		n.Node = k.Node
	case model.WorkloadEndpointKey:
		n.Node, n.Orchestrator, n.Workload = k.Node, k.Orchestrator, k.Workload
	}
	return n
}

// objectResult is what became of an object.
type objectResult struct {
	objectName

	Result resource.Did `json:"result"`
}

// changeResult is the answer of a command that changes resources, in JSON.
type changeResult struct {
	Action    string         `json:"action"`
	DryRun    string         `json:"dryRun,omitempty"`
	Resources []objectResult `json:"resources"`
	// Total is how many resources were asked for; fewer are listed after a failure.
	Total int    `json:"total"`
	Error string `json:"error,omitempty"`
}

// The values of --dry-run.
const (
	dryRunNone   = "none"
	dryRunClient = "client"
	dryRunServer = "server"
)

// changing is the flags of commands that change resources.
type changing struct {
	outputFlag

	dryRun string
}

func (c *changing) flags(cmd *cobra.Command) {
	c.flag(cmd)
	cmd.Flags().StringVar(&c.dryRun, "dry-run", dryRunNone,
		"`mode`: client checks the input alone, server also compares it with the datastore; neither writes anything")
	cmd.Flags().Lookup("dry-run").NoOptDefVal = dryRunServer
	mustComplete(cmd, "dry-run", []string{dryRunNone, dryRunClient, dryRunServer})
}

func (c *changing) check() error {
	switch c.dryRun {
	case dryRunNone, dryRunClient, dryRunServer:
		return c.outputFlag.check()
	}
	return usagef("unknown dry-run mode %q: expected none, client or server", c.dryRun)
}

// dry says whether nothing is to be written.
func (c *changing) dry() bool { return c.dryRun != dryRunNone }

// note is what messages say behind what was not done in earnest.
func (c *changing) note() string {
	if !c.dry() {
		return ""
	}
	return fmt.Sprintf(" (dry run by %s, nothing was written)", c.dryRun)
}

// valid is what became of an object of which only the input was looked at.
const valid resource.Did = "valid"
