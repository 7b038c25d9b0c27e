module github.com/coreos/etcd

go 1.26

require go.etcd.io/etcd/client/v3 v3.6.14
