package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/logattr"
)

const (
	defaultConfig = "/etc/calico/confd/config/bgpd.toml"
	defaultRunDir = "/var/run/calico"
)

const usage = `bgpd tells other hosts by BGP which address blocks this one has, and puts theirs
into the kernel.

Usage:
  bgpd [run] [flags]     run the daemon
  bgpd check FILE        say what is wrong in a configuration file
  bgpd reload [flags]    have the running bgpd read its configuration
  bgpd version

Flags of run:
  --config FILE          configuration (` + defaultConfig + `) [BGPD_CONFIG]
  --run-dir DIR          directory of the sockets (` + defaultRunDir + `) [CALICO_RUN_DIR]
  --state-dir DIR        directory of what this host remembers (` + hostrecord.DefaultDir + `) [` + hostrecord.DirVariable + `]
  --node NAME            name of this host in etcd [NODENAME]
  --log-format FORMAT    text or json (text) [BGPD_LOG_FORMAT]

Flags of reload:
  --run-dir DIR

Environment: ETCD_ENDPOINTS, ETCD_CA_CERT_FILE, ETCD_CERT_FILE, ETCD_KEY_FILE,
ETCD_USERNAME, ETCD_PASSWORD.

Exit codes: 0 done, 1 failed, 2 wrong usage.
`

var errHelp = errors.New("help")

// options are the command line with the environment behind it.
type options struct {
	command   string
	file      string
	config    string
	runDir    string
	stateDir  string
	node      string
	logFormat string
}

var commands = []string{"run", "check", "reload", "version"}

func parseArgs(args []string, getenv func(string) string) (options, error) {
	o := options{command: "run"}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		o.command, args = args[0], args[1:]
	}
	if o.command == "help" {
		return o, errHelp
	}
	if !slices.Contains(commands, o.command) {
		return o, fmt.Errorf("unknown command %q; there are run, check, reload and version", o.command)
	}
	fs := flag.NewFlagSet("bgpd "+o.command, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	if o.command == "run" || o.command == "reload" {
		fs.StringVar(&o.runDir, "run-dir", env(getenv, "CALICO_RUN_DIR", defaultRunDir), "")
	}
	if o.command == "run" {
		fs.StringVar(&o.config, "config", env(getenv, "BGPD_CONFIG", defaultConfig), "")
		fs.StringVar(&o.stateDir, "state-dir", hostrecord.Dir(getenv), "")
		fs.StringVar(&o.node, "node", "", "")
		fs.StringVar(&o.logFormat, "log-format", env(getenv, "BGPD_LOG_FORMAT", logattr.FormatText), "")
	}
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return o, errHelp
	} else if err != nil {
		return o, err
	}
	return o, o.check(fs.Args())
}

func (o *options) check(rest []string) error {
	if o.command == "check" {
		if len(rest) != 1 {
			return errors.New("check needs exactly one file")
		}
		o.file = rest[0]
		return nil
	}
	if len(rest) > 0 {
		return fmt.Errorf("%s takes no argument, but there is %q", o.command, rest[0])
	}
	if o.command == "run" && o.logFormat != logattr.FormatText && o.logFormat != logattr.FormatJSON {
		return fmt.Errorf("--log-format is %q, must be text or json", o.logFormat)
	}
	return nil
}

func env(getenv func(string) string, name, def string) string {
	if v := getenv(name); v != "" {
		return v
	}
	return def
}
