module calico.internal/confd-templates

go 1.26.0

require (
	calico.internal/libcalico v0.0.0
	github.com/BurntSushi/toml v1.3.2
	github.com/fsnotify/fsnotify v1.9.0
	github.com/google/go-cmp v0.7.0
	github.com/kelseyhightower/confd v0.16.0
	go.etcd.io/etcd/client/v3 v3.7.3
	golang.org/x/sync v0.25.0
	google.golang.org/grpc v1.83.2
)

require (
	github.com/aws/aws-sdk-go v1.48.16 // indirect
	github.com/coreos/etcd v3.3.27+incompatible // indirect
	github.com/coreos/go-semver v0.3.1 // indirect
	github.com/coreos/go-systemd/v22 v22.7.0 // indirect
	github.com/garyburd/redigo v1.6.4 // indirect
	github.com/golang/protobuf v1.5.4 // indirect
	github.com/grpc-ecosystem/grpc-gateway/v2 v2.29.0 // indirect
	github.com/hashicorp/consul/api v1.26.1 // indirect
	github.com/hashicorp/vault/api v1.10.0 // indirect
	github.com/kelseyhightower/memkv v0.1.1 // indirect
	github.com/samuel/go-zookeeper v0.0.0-20201211165307-7117e9ea2414 // indirect
	github.com/sirupsen/logrus v1.9.3 // indirect
	github.com/xordataexchange/crypt v0.0.3-0.20170626215501-b2862e3d0a77 // indirect
	go.etcd.io/etcd/api/v3 v3.7.3 // indirect
	go.etcd.io/etcd/client/pkg/v3 v3.7.3 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	go.uber.org/zap v1.27.1 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/net v0.61.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20260803160001-6ac0973c030d // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260803160001-6ac0973c030d // indirect
	google.golang.org/protobuf v1.36.12 // indirect
	gopkg.in/yaml.v2 v2.4.0 // indirect
)

replace calico.internal/libcalico => ../libcalico

// What confd v0.16.0 imports and does not need here: see shim/README.md.
replace (
	github.com/aws/aws-sdk-go => ./shim/aws-sdk-go
	github.com/coreos/etcd => ./shim/etcd
	github.com/garyburd/redigo => ./shim/redigo
	github.com/hashicorp/consul/api => ./shim/consul-api
	github.com/hashicorp/vault/api => ./shim/vault-api
	github.com/samuel/go-zookeeper => ./shim/go-zookeeper
)
