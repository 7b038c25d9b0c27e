package command

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/transfer"
)

// oldPassword is the variable with the password for the old etcd, which stands on no
// command line.
const oldPassword = "FROM_ETCD_PASSWORD"

func newImport(env *Env) *cobra.Command {
	var t transferring
	var from transfer.V2
	var file string
	cmd := &cobra.Command{
		Use:   "import (--from=URL | -f FILE)",
		Short: "Import the data of a Calico v2.6 from an etcd v2 tree",
		Long: `Bring all that a Calico v2.6 kept in etcd over the v2 API into the datastore, which uses
the v3 API: policies, profiles, endpoints, pools, addresses in use, peers, nodes and
settings. The old tree is only read. An etcd that is 3.4 or 3.5 serves the v2 API of its
data when it is started with --enable-v2; with --filename, an answer of that API is read:

  curl 'http://127.0.0.1:2379/v2/keys/calico?recursive=true' >old.json

` + transferHelp,
		Example: `  # See what would be imported, import it, and compare again later.
  calicoctl import --from=http://192.0.2.1:2379 --dry-run
  calicoctl import --from=http://192.0.2.1:2379
  calicoctl import --from=http://192.0.2.1:2379 --verify`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := t.check(); err != nil {
				return err
			}
			if (from.URL == "") == (file == "") {
				return usagef("name the old tree by either --from or --filename")
			}
			from.Password = env.Getenv(oldPassword)
			return executing(env.importV2(cmd, t, from, file))
		},
	}
	f := cmd.Flags()
	f.StringVar(&from.URL, "from", "", "`URL` of the old etcd")
	f.StringVarP(&file, "filename", "f", "", "`file` with an answer of the v2 API; - is standard input")
	f.StringVar(&from.CACertFile, "from-ca", "", "`file` with the certificate that verifies the old etcd")
	f.StringVar(&from.CertFile, "from-cert", "", "`file` with the client certificate for the old etcd")
	f.StringVar(&from.KeyFile, "from-key", "", "`file` with the key of the client certificate")
	f.StringVar(&from.Username, "from-user", "", "`user` of the old etcd; the password is in "+oldPassword)
	t.flags(cmd)
	return cmd
}

func (env *Env) importV2(cmd *cobra.Command, t transferring, from transfer.V2, file string) error {
	shown := from.URL
	var f *os.File
	var err error
	if file == "" {
		f, err = spool(func(w io.Writer) error { return from.Fetch(cmd.Context(), w) })
	} else {
		f, shown, err = env.openSource(file)
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	source, err := transfer.V2File(shown, f)
	if err != nil {
		return err
	}
	return env.transfer(cmd, t, source)
}
