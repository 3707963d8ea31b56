package main

// kind says how a setting is written: once, repeatedly, or as a switch.
type kind int

const (
	scalar kind = iota
	list
	toggle
)

// nodeKeys are read by the node part, so both roles know them.
var nodeKeys = map[string]kind{
	"config": scalar, "data-dir": scalar, "debug": toggle, "v": scalar, "vmodule": scalar, "log": scalar,
	"alsologtostderr": toggle, "token": scalar, "token-file": scalar, "node-name": scalar, "with-node-id": toggle,
	"node-ip": list, "node-external-ip": list, "node-internal-dns": list, "node-external-dns": list,
	"node-label": list, "node-taint": list, "resolv-conf": scalar, "kubelet-arg": list, "kube-proxy-arg": list,
	"protect-kernel-defaults": toggle, "selinux": toggle, "disable-default-registry-endpoint": toggle,
	"private-registry": scalar, "pause-image": scalar, "airgap-extra-registry": list, "snapshotter": scalar,
	"prefer-bundled-bin": toggle, "flannel-iface": scalar, "flannel-conf": scalar, "flannel-cni-conf": scalar,
	"lb-server-port": scalar, "nonroot-devices": toggle, "rootless": toggle, "docker": toggle,
	"container-runtime-endpoint": scalar, "default-runtime": scalar, "image-service-endpoint": scalar,
	"image-credential-provider-bin-dir": scalar, "image-credential-provider-config": scalar,
	"bind-address": scalar, "disable-apiserver-lb": toggle, "enable-pprof": toggle, "vpn-auth": scalar,
	"vpn-auth-file": scalar, "server": scalar,
}

// serverKeys are known to `k3s server` only: on an agent they are unknown keys.
var serverKeys = map[string]kind{
	"cluster-init": toggle, "cluster-reset": toggle, "cluster-reset-restore-path": scalar,
	"agent-token": scalar, "agent-token-file": scalar, "https-listen-port": scalar, "advertise-address": scalar,
	"advertise-port": scalar, "tls-san": list, "tls-san-security": toggle, "cluster-cidr": list, "service-cidr": list,
	"service-node-port-range": scalar, "cluster-dns": list, "cluster-domain": scalar, "flannel-backend": scalar,
	"flannel-ipv6-masq": toggle, "flannel-external-ip": toggle, "egress-selector-mode": scalar,
	"servicelb-namespace": scalar, "write-kubeconfig": scalar, "write-kubeconfig-mode": scalar,
	"write-kubeconfig-group": scalar, "kube-apiserver-arg": list, "etcd-arg": list,
	"kube-controller-manager-arg": list, "kube-scheduler-arg": list, "kube-cloud-controller-manager-arg": list,
	"helm-controller-arg": list, "helm-job-image": scalar, "datastore-endpoint": scalar,
	"etcd-expose-metrics": toggle, "etcd-disable-snapshots": toggle, "etcd-snapshot-name": scalar,
	"etcd-snapshot-schedule-cron": scalar, "etcd-snapshot-retention": scalar, "etcd-snapshot-dir": scalar,
	"etcd-snapshot-compress": toggle, "etcd-snapshot-reconcile-interval": scalar, "etcd-s3": toggle,
	"default-local-storage-path": scalar, "disable": list, "disable-scheduler": toggle,
	"disable-cloud-controller": toggle, "disable-kube-proxy": toggle, "disable-network-policy": toggle,
	"disable-helm-controller": toggle, "disable-agent": toggle, "disable-apiserver": toggle,
	"disable-controller-manager": toggle, "disable-etcd": toggle, "embedded-registry": toggle,
	"supervisor-metrics": toggle, "secrets-encryption": toggle, "secrets-encryption-provider": scalar,
	"system-default-registry": scalar, "multi-cluster-cidr": toggle, "kine-tls": toggle,
}

// snapshotKeys are the options of `k3s etcd-snapshot` that are not the server's own.
var snapshotKeys = map[string]kind{
	"name": scalar, "dir": scalar, "output": scalar, "snapshot-compress": toggle, "snapshot-retention": scalar,
}

// letters are the short options.
var letters = map[string]string{"c": "config", "d": "data-dir", "t": "token", "s": "server", "o": "output"}

// environment gives a setting when neither a flag nor a file does.
var environment = map[string]string{
	"config": "K3S_CONFIG_FILE", "data-dir": "K3S_DATA_DIR", "token": "K3S_TOKEN", "token-file": "K3S_TOKEN_FILE",
	"agent-token": "K3S_AGENT_TOKEN", "agent-token-file": "K3S_AGENT_TOKEN_FILE", "server": "K3S_URL",
	"node-name": "K3S_NODE_NAME", "resolv-conf": "K3S_RESOLV_CONF", "write-kubeconfig": "K3S_KUBECONFIG_OUTPUT",
	"write-kubeconfig-mode": "K3S_KUBECONFIG_MODE", "selinux": "K3S_SELINUX",
}

// keysFor is what a role understands.
func keysFor(role string) map[string]kind {
	known := map[string]kind{}
	for key, k := range nodeKeys {
		known[key] = k
	}
	if role == "agent" {
		return known
	}
	for key, k := range serverKeys {
		known[key] = k
	}
	if role == "etcd-snapshot" {
		for key, k := range snapshotKeys {
			known[key] = k
		}
	}
	return known
}
