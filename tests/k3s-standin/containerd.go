package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// pauseImage must be in the airgap images: nothing else can start without it.
const pauseImage = "docker.io/rancher/mirrored-pause:3.10.2"

func containerdSocket() string { return filepath.Join(runDir(), "containerd/containerd.sock") }

func (a *agent) cniConfDir() string { return filepath.Join(a.dir, "etc/cni/net.d") }

func (a *agent) startContainerd() error {
	config := filepath.Join(a.dir, "etc/containerd/config.toml")
	if err := writeFile(config, 0o600, []byte(a.containerdConfig())); err != nil {
		return err
	}
	level := "warn"
	if a.is("debug") {
		level = "debug"
	}
	return a.run.start("containerd", filepath.Join(a.bin, "containerd"),
		[]string{"containerd", "--config", config, "--log-level", level}, nil)
}

func (a *agent) containerdConfig() string {
	state := filepath.Join(runDir(), "containerd")
	return fmt.Sprintf(`# Written by the K3s stand-in at every start.
version = 3
root = %q
state = %q
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
  address = %q

[plugins.'io.containerd.cri.v1.images']
  snapshotter = %q
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = %q

[plugins.'io.containerd.cri.v1.runtime']
  enable_selinux = %t
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  restrict_oom_score_adj = %t
  disable_apparmor = %t
  netns_mounts_under_state_dir = %t
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = [%q]
    conf_dir = %q
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        SystemdCgroup = %t
        BinaryName = %q
`,
		filepath.Join(a.dir, "containerd"), state, containerdSocket(), a.str("snapshotter", "overlayfs"),
		a.str("pause-image", pauseImage), a.is("selinux"), !maySetOOMScore(), !hasAppArmor(), shared(),
		filepath.Join(a.dataDir, "data/cni"), a.cniConfDir(), systemdCgroups(), filepath.Join(a.bin, "runc"))
}

// systemdCgroups is true when systemd started us and owns the one cgroup tree.
func systemdCgroups() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return os.Getenv("INVOCATION_ID") != "" && err == nil
}

// maySetOOMScore: without CAP_SYS_RESOURCE no process may lower its score, and every sandbox would fail.
func maySetOOMScore() bool {
	const capSysResource = 24
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return true
	}
	for _, line := range strings.Split(string(text), "\n") {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			return err != nil || mask&(1<<capSysResource) != 0
		}
	}
	return true
}

func hasAppArmor() bool {
	text, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(text), "Y")
}
