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

const (
	start = 2 * time.Minute // a slow machine's server start
	soon  = time.Minute
)

const serverConfig = `cluster-init: true
token: servertoken
agent-token: agenttoken
node-name: m1
secrets-encryption: true
secrets-encryption-provider: secretbox
not-a-key: 1
`

const pod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"hello"},"spec":{"terminationGracePeriodSeconds":1,
"containers":[{"name":"hello","image":"docker.io/library/standin-hello:1",
"readinessProbe":{"httpGet":{"port":8080}},"securityContext":{"seccompProfile":{"type":"RuntimeDefault"}}}]}}`

func worker(h *host, server *host, token, more string) {
	h.write("etc/rancher/k3s/config.yaml", fmt.Sprintf("server: https://%s:6443\ntoken: %s\nnode-name: w1\n%s", server.address, token, more))
}

// ask gives one field of an object, or "" while it is not there.
func ask(h *host, object, path string) string {
	out, err := h.output("kubectl", "get", object, "-o", "jsonpath="+path)
	if err != nil {
		return ""
	}
	return out
}

func awaitField(t *testing.T, h *host, object, path, want string) {
	t.Helper()
	eventually(t, soon, func() error {
		if got := ask(h, object, path); got != want {
			return fmt.Errorf("%s of %s is %q, not %q", path, object, got, want)
		}
		return nil
	})
}

const isReady = `{.status.conditions[?(@.type=="Ready")].status}`

func TestWorkerJoinsAndRunsAPod(t *testing.T) {
	m, w := twoHosts(t)
	m.write("etc/rancher/k3s/config.yaml", serverConfig)
	server := m.start("server", "--disable-agent")
	server.says("k3s is up and running", start)
	server.says("Unknown flag --not-a-key found in config.yaml, skipping", soon)

	token := m.read("var/lib/rancher/k3s/server/agent-token")
	w.images()
	worker(w, m, token, "node-label: [test=yes]\nnode-taint: [\"a=b:PreferNoSchedule\"]\n")
	agent := w.start("agent")
	agent.says("k3s agent is up and running", start)
	awaitField(t, m, "node/w1", isReady, "True")
	awaitField(t, m, "node/w1", "{.metadata.labels.test}{.spec.taints[0].key}", "yesa")

	m.write("pod.json", pod)
	if out, err := m.output("kubectl", "create", "-f", filepath.Join(m.root, "pod.json")); err != nil {
		t.Fatal(out)
	}
	awaitField(t, m, "pod/hello", isReady, "True")
	if out, err := m.output("kubectl", "logs", "hello"); err != nil || !strings.Contains(out, "standin-hello listens") {
		t.Errorf("logs: %s, %v", out, err)
	}
	if cache := w.read("var/lib/rancher/k3s/agent/images/.cache.json"); !strings.Contains(cache, "mirrored-pause:3.10.2") {
		t.Errorf("the image cache is %q", cache)
	}

	t.Run("a second node of the same name is refused", func(t *testing.T) {
		other := w.sibling(t)
		worker(other, m, token, "")
		other.start("agent").says("Node password rejected, duplicate hostname", soon)
		server.says("unable to verify password for node w1: hash does not match", soon)
	})
	t.Run("a wrong token is refused", func(t *testing.T) {
		other := w.sibling(t)
		worker(other, m, "wrong", "")
		p := other.start("agent")
		p.says("401 Unauthorized", soon)
		if strings.Contains(p.text(), "running kubelet") {
			t.Error("the kubelet runs all the same")
		}
	})
	t.Run("an unknown key stops an agent", func(t *testing.T) {
		other := w.sibling(t)
		worker(other, m, token, "not-a-key: 1\n")
		if out, err := other.output("agent"); err == nil || !strings.Contains(out, "flag provided but not defined: -not-a-key") {
			t.Errorf("got %s, %v", out, err)
		}
	})
	t.Run("the password goes with its node", func(t *testing.T) {
		m.output("kubectl", "delete", "pod", "hello", "--wait")
		agent.stop()
		if out, err := m.output("kubectl", "delete", "node", "w1"); err != nil {
			t.Fatal(out)
		}
		eventually(t, soon, func() error {
			out, _ := m.output("kubectl", "-n", "kube-system", "get", "secrets", "-o", "name")
			if strings.Contains(out, "w1.node-password.k3s") {
				return fmt.Errorf("still there: %s", out)
			}
			return nil
		})
	})
}

func TestRestoreOnAnEmptyDisk(t *testing.T) {
	m, _ := twoHosts(t)
	m.write("etc/rancher/k3s/config.yaml", serverConfig)
	server := m.start("server", "--disable-agent")
	server.says("k3s is up and running", start)
	if out, err := m.output("kubectl", "create", "secret", "generic", "kept", "--from-literal=a=b"); err != nil {
		t.Fatal(out)
	}
	if out, err := m.output("etcd-snapshot", "save", "--name", "pre"); err != nil || !strings.Contains(out, "Snapshot pre-m1-") {
		t.Fatal(out)
	}
	ca := m.read("var/lib/rancher/k3s/server/tls/server-ca.crt")
	server.stop()
	found, err := filepath.Glob(filepath.Join(m.root, "var/lib/rancher/k3s/server/db/snapshots/pre-m1-*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%q, %v", found, err)
	}
	snapshot := filepath.Join(m.root, "snapshot")
	if err := os.Rename(found[0], snapshot); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(m.root, "var")); err != nil {
		t.Fatal(err)
	}

	m.write("etc/rancher/k3s/config.yaml", strings.ReplaceAll(serverConfig, "token: servertoken", "token-file: "+m.root+"/token"))
	m.write("token", "servertoken")
	reset := []string{"server", "--cluster-reset", "--cluster-reset-restore-path=" + snapshot}
	if out, err := m.output(reset...); err == nil || !strings.Contains(out, "does not exist, please pass --token to complete the restoration") {
		t.Errorf("a token file was enough: %s", out)
	}
	t.Setenv("K3S_TOKEN", "wrong")
	if out, err := m.output(reset...); err == nil || !strings.Contains(out, "encrypted with different token") {
		t.Errorf("a wrong token opened the snapshot: %s", out)
	}
	t.Setenv("K3S_TOKEN", "servertoken")
	if out, err := m.output(reset...); err != nil || !strings.Contains(out, "Managed etcd cluster membership has been reset") {
		t.Fatalf("%s, %v", out, err)
	}
	if m.read("var/lib/rancher/k3s/server/tls/server-ca.crt") != ca {
		t.Error("the CA is another one")
	}
	m.start("server", "--disable-agent").says("k3s is up and running", start)
	awaitField(t, m, "secret/kept", "{.data.a}", "Yg==")
}
