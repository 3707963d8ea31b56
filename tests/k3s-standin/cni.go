package main

import (
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// network waits for this node's pod range and writes the bridge configuration; only then can the node be Ready.
func (a *agent) network(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(a.dir, "kubelet.kubeconfig"))
	if err != nil {
		return err
	}
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	var cidr string
	err = poll(ctx, 500*time.Millisecond, "this node's pod range", func() error {
		node, err := api.CoreV1().Nodes().Get(ctx, a.node, meta.GetOptions{})
		if err == nil && node.Spec.PodCIDR == "" {
			err = errors.New("not assigned yet")
		}
		if err == nil {
			cidr = node.Spec.PodCIDR
		}
		return err
	})
	if err != nil {
		return err
	}
	content, err := conflist(cidr, firewall(), filepath.Join(runDir(), "cni"))
	if err != nil {
		return err
	}
	logrus.Infof("standin: pods of this node use %s", cidr)
	return writeFile(filepath.Join(a.cniConfDir(), "10-standin.conflist"), 0o600, content)
}

// firewall is the program that can masquerade and map ports, or "".
func firewall() string {
	for _, program := range []string{"iptables", "nft"} {
		if _, err := exec.LookPath(program); err == nil {
			return program
		}
	}
	logrus.Warn("standin: neither iptables nor nft is installed: pods reach this node only, Services do not work")
	return ""
}

// conflist is one bridge for the node's pods. It stands in for flannel: nodes do not reach each other's pods.
func conflist(cidr, firewall, leases string) ([]byte, error) {
	type object = map[string]any
	bridge := object{
		"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": firewall != "",
		"ipam": object{"type": "host-local", "dataDir": leases,
			"ranges": [][]object{{{"subnet": cidr}}}, "routes": []object{{"dst": "0.0.0.0/0"}}},
	}
	portmap := object{"type": "portmap", "capabilities": object{"portMappings": true}, "snat": true}
	if firewall == "nft" {
		bridge["ipMasqBackend"] = "nftables"
		portmap["backend"] = "nftables"
	}
	chain := []object{bridge}
	if firewall != "" {
		chain = append(chain, portmap)
	}
	return json.MarshalIndent(object{"cniVersion": "1.0.0", "name": "cbr0", "plugins": chain}, "", "  ")
}
