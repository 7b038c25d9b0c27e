package enginetest

// ID is every engine's own.
const ID = "ZTXU:B7YH:BGA2:RUAE:XUJ5:NPYO:FXKP:YSAB:SMSL:IENV:U3QL:XC32"

// What the engines answer, with all fields that they send, so that a decoder meets
// what it will meet. The verbs are for the values that a test chooses.
const (
	infoJSON = `{"ID":%s,"Containers":0,"Images":0,
"Driver":"overlay2","Plugins":{"Volume":["local"],"Network":["bridge","host"],"Authorization":null,"Log":["json-file"]},
"RegistryConfig":{"InsecureRegistryCIDRs":["127.0.0.0/8"],"Mirrors":[]},"NCPU":2,"Labels":[],"ExperimentalBuild":false,
"ServerVersion":%s,"ClusterStore":%s,"ClusterAdvertise":"","Swarm":{"NodeID":"","LocalNodeState":"inactive"}}`

	eventJSON = `{"Type":"network","Action":"%s","Actor":{"ID":%s,"Attributes":{"name":%s,"type":%s}},
"scope":"local","time":1761955200,"timeNano":1761955200000000000}`

	network20JSON = `{"Name":%s,"Id":%s,"Created":"2025-11-01T00:00:00.852Z","Scope":%s,"Driver":%s,"EnableIPv6":false,
"IPAM":{"Driver":"calico-ipam","Options":{},"Config":%s},"Internal":%t,"Attachable":%t,"Ingress":false,
"ConfigFrom":{"Network":""},"ConfigOnly":false,"Containers":%s,"Options":%s,"Labels":%s}`

	network29JSON = `{"Name":%s,"Id":%s,"Created":"2025-11-01T00:00:00.852Z","Scope":%s,"Driver":%s,"EnableIPv4":true,
"EnableIPv6":false,"IPAM":{"Driver":"calico-ipam","Options":{},"Config":%s},"Internal":%t,"Attachable":%t,
"Ingress":false,"ConfigFrom":{"Network":""},"ConfigOnly":false,"Containers":%s,"Options":%s,"Labels":%s,
"Status":{"IPAM":{"Subnets":{}}}}`

	containerJSON = `{"Id":%s,"Names":[%s],"Image":"bb","ImageID":"sha256:1b","Command":"sleep 1d","Created":1761955200,
"Ports":[],"Labels":%s,"State":%s,"Status":"","HostConfig":{"NetworkMode":"net1"},
"NetworkSettings":{"Networks":{%s}},"Mounts":[]}`

	attachment20JSON = `{"IPAMConfig":null,"Links":null,"Aliases":null,"NetworkID":"","EndpointID":%s,"Gateway":"",
"IPAddress":%s,"IPPrefixLen":32,"IPv6Gateway":"","GlobalIPv6Address":%s,"GlobalIPv6PrefixLen":0,"MacAddress":"",
"DriverOpts":null}`

	attachment29JSON = `{"IPAMConfig":null,"Links":null,"Aliases":null,"DriverOpts":null,"GwPriority":0,"NetworkID":"",
"EndpointID":%s,"Gateway":"","IPAddress":%s,"MacAddress":"","IPPrefixLen":32,"IPv6Gateway":"","GlobalIPv6Address":%s,
"GlobalIPv6PrefixLen":0,"DNSNames":null}`

	inspectJSON = `{"Id":%s,"Created":"2025-11-01T00:00:00Z","Path":"sleep","Args":["1d"],"Name":%s,"RestartCount":0,
"State":{"Status":%s,"Running":false,"Paused":false,"Restarting":false,"OOMKilled":false,"Dead":false,"Pid":0,
"ExitCode":255,"Error":%s,"StartedAt":"2025-11-01T00:00:00Z","FinishedAt":%s},
"HostConfig":{"NetworkMode":"net1","RestartPolicy":{"Name":%s,"MaximumRetryCount":0}},
"Config":{"Hostname":%s,"Labels":%s},"NetworkSettings":{"Networks":%s}}`

	containerEventJSON = `{"Type":"container","Action":"%s","Actor":{"ID":%s,"Attributes":{}},"scope":"local","time":1761955200}`

	connectEventJSON = `{"Type":"network","Action":"connect","Actor":{"ID":%s,"Attributes":{"container":%s,"name":"x","type":"calico"}},
"scope":"local","time":1761955200}`
)
