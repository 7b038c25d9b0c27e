package command

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"

	"calico.internal/calicoctl/internal/transfer"
	"calico.internal/libcalico/ipam"
)

// publish prints what a check found, for people and as a report where one was asked for, one
// by one. It returns how much is left to mend.
func (c *ipamCheck) publish(i *ipam.Inventory, findings iter.Seq[finding]) (left int, err error) {
	text := bufio.NewWriter(c.text)
	if c.showAll {
		for a := range allocations(i) {
			fmt.Fprintf(text, "%s in block %s: %s\n", a.Address, a.Block, ipam.Owner{Handle: a.Handle, Attrs: a.Attrs})
		}
	}
	found := 0
	told := func(yield func(finding) bool) {
		for f := range findings {
			if found++; !f.Mended {
				left++
			}
			f.print(text)
			if !yield(f) {
				return
			}
		}
	}
	switch c.output {
	case "":
		for range told {
		}
	case "json":
		err = c.write(c.env.Stdout, i, told)
	default:
		err = transfer.WriteFile(c.output, func(w io.Writer) error { return c.write(w, i, told) })
	}
	if found > 0 {
		fmt.Fprintln(text)
	}
	fmt.Fprintf(text, "Check complete; found %d problems.", found)
	if found != left {
		fmt.Fprintf(text, " %d are mended, %d are left.", found-left, left)
	}
	fmt.Fprintln(text)
	return left, errors.Join(err, text.Flush())
}

// print prints a problem for people.
func (f finding) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %s\n", f.Kind, f.Text)
	switch {
	case f.Mended:
		fmt.Fprintf(w, "  mended: %s\n", f.Remedy)
	case f.Error != "":
		fmt.Fprintf(w, "  not mended: %s\n", f.Error)
	case f.Remedy != "":
		fmt.Fprintf(w, "  --fix will: %s\n", f.Remedy)
	case f.Advice != "":
		fmt.Fprintf(w, "  %s\n", f.Advice)
	}
}

func allocations(i *ipam.Inventory) iter.Seq[allocation] {
	return func(yield func(allocation) bool) {
		for h := range i.Holdings() {
			if !yield(allocation{Address: h.Addr.String(), Block: h.Block.String(), Handle: h.Owner.Handle, Attrs: h.Owner.Attrs}) {
				return
			}
		}
	}
}

// write writes a [checkReport], whose lists are not held.
func (c *ipamCheck) write(to io.Writer, i *ipam.Inventory, findings iter.Seq[finding]) error {
	w := bufio.NewWriter(to)
	var head map[string]json.RawMessage
	text, err := json.Marshal(c.report)
	if err == nil {
		err = json.Unmarshal(text, &head)
	}
	if err != nil {
		return err
	}
	fmt.Fprint(w, "{")
	for _, name := range []string{"report", "cluster", "revision", "time", "counts", "engine"} {
		if err := writeMember(w, name, head[name]); err != nil {
			return err
		}
	}
	if err := writeList(w, problemsField, findings); err != nil {
		return err
	}
	if c.showAll {
		fmt.Fprint(w, ",")
		if err := writeList(w, allocationsField, allocations(i)); err != nil {
			return err
		}
	}
	fmt.Fprint(w, "\n}\n")
	return w.Flush()
}

// writeMember writes a member of the report that others follow.
func writeMember(w io.Writer, name string, value json.RawMessage) error {
	text, err := json.MarshalIndent(value, "  ", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\n  %q: %s,", name, text)
	return err
}

// writeList writes a list of the report, item by item.
func writeList[T any](w io.Writer, name string, items iter.Seq[T]) error {
	fmt.Fprintf(w, "\n  %q: [", name)
	before, end := "\n    ", "]"
	for item := range items {
		text, err := json.MarshalIndent(item, "    ", "  ")
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s%s", before, text); err != nil {
			return err
		}
		before, end = ",\n    ", "\n  ]"
	}
	_, err := io.WriteString(w, end)
	return err
}
