//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serverOf is the configuration of one of several servers; without `first` it starts the cluster.
func serverOf(h *host, name, token string, first *host, more string) {
	start := "cluster-init: true\n"
	if first != nil {
		start = fmt.Sprintf("server: https://%s:6443\n", first.address)
	}
	h.write("etc/rancher/k3s/config.yaml", fmt.Sprintf("%stoken: %s\nagent-token: agenttoken\nnode-name: %s\n"+
		"secrets-encryption: true\nsecrets-encryption-provider: secretbox\n%s", start, token, name, more))
}

const isVoter = `{.status.conditions[?(@.type=="EtcdIsVoter")].status}`

func TestServersJoinLeaveAndComeBack(t *testing.T) {
	all := hosts(t, 3)
	m1, m2, m3 := all[0], all[1], all[2]
	serverOf(m1, "m1", "servertoken", nil, "")
	first := m1.start("server", "--disable-agent")
	first.says("k3s is up and running", start)
	token := m1.read("var/lib/rancher/k3s/server/token")
	if out, err := m1.output("kubectl", "create", "secret", "generic", "kept", "--from-literal=a=b"); err != nil {
		t.Fatal(out)
	}

	for name, c := range map[string]struct{ token, more, want string }{
		"another CA":          {"K10" + strings.Repeat("ab", 32) + "::server:servertoken", "", "token CA hash does not match"},
		"another password":    {strings.Replace(token, "servertoken", "other", 1), "", "401 Unauthorized"},
		"an agent's token":    {strings.Replace(token, "server:servertoken", "node:agenttoken", 1), "", "401 Unauthorized"},
		"another pod network": {token, "cluster-cidr: 10.52.0.0/16\n", "critical configuration value mismatch between servers"},
	} {
		other := m2.sibling(t)
		serverOf(other, "m2", c.token, m1, c.more)
		if out, err := other.output("server", "--disable-agent"); err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v, %s", name, err, tail(out, 400))
		}
		if _, err := os.Stat(filepath.Join(other.root, "var/lib/rancher/k3s/server/db/etcd/member")); err == nil {
			t.Errorf("%s: it has a database", name)
		}
	}

	serverOf(m2, "m2", token, m1, "")
	m2.start("server", "--disable-agent").says("k3s is up and running", start)
	// The third has a kubelet, and so a Node.
	serverOf(m3, "m3", token, m1, "")
	third := m3.start("server")
	third.says("k3s is up and running", start)
	awaitField(t, m2, "node/m3", isVoter, "True")
	awaitField(t, m3, "secret/kept", "{.data.a}", "Yg==")
	if m3.read("var/lib/rancher/k3s/server/tls/server-ca.crt") != m1.read("var/lib/rancher/k3s/server/tls/server-ca.crt") {
		t.Error("the third has another CA")
	}
	awaitField(t, m1, "endpointslice/kubernetes", "{.endpoints[*].addresses[0]}", m1.address+" "+m2.address+" "+m3.address)

	// Its machine is replaced by one of the same name: refused until its Node is deleted.
	third.stop()
	again := m3.sibling(t)
	serverOf(again, "m3", token, m1, "")
	if out, err := again.output("server"); err == nil || !strings.Contains(out, "duplicate node name found, please use a unique name for this node") {
		t.Errorf("%v, %s", err, tail(out, 400))
	}
	if out, err := m1.output("kubectl", "delete", "node", "m3", "--timeout=60s"); err != nil {
		t.Fatal(out)
	}
	eventually(t, soon, func() error {
		if !strings.Contains(first.text(), "Removing name=m3-") && !strings.Contains(fmt.Sprint(m2.logs()), "Removing name=m3-") {
			return fmt.Errorf("nobody says that the member is removed")
		}
		out, _ := m1.output("kubectl", "-n", "kube-system", "get", "secrets", "-o", "name")
		if strings.Contains(out, "m3.node-password.k3s") {
			return fmt.Errorf("still there: %s", out)
		}
		return nil
	})
	again.start("server").says("k3s is up and running", start)
	awaitField(t, m1, "node/m3", isVoter, "True")

	// With three voters one may go, and what it held is there.
	first.stop()
	eventually(t, 2*time.Minute, func() error {
		if got := ask(m2, "secret/kept", "{.data.a}"); got != "Yg==" {
			return fmt.Errorf("the secret is %q", got)
		}
		return nil
	})
}
