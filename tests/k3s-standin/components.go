package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // their metrics
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// components are the programs in this binary; a child process is one of them when its argv[0] says so.
var components = map[string]func(){
	"etcd":                    func() { etcdmain.Main(os.Args) },
	"kube-apiserver":          func() { os.Exit(cli.Run(apiserver.NewAPIServerCommand())) },
	"kube-controller-manager": func() { os.Exit(cli.Run(controllers.NewControllerManagerCommand())) },
	"kube-scheduler":          func() { os.Exit(cli.Run(scheduler.NewSchedulerCommand())) },
	"kube-proxy":              func() { os.Exit(cli.Run(proxy.NewProxyCommand())) },
	"kubelet":                 func() { os.Exit(cli.Run(kubelet.NewKubeletCommand(context.Background()))) },
}

// wrapped are the client programs that also run under a name of their own.
var wrapped = map[string]bool{"kubectl": true, "ctr": true}

// clientDataDir finds the data folder for a client program, whose options are not ours to parse: a leading
// --data-dir, the environment, the configuration file.
func clientDataDir(argv []string) (string, []string, error) {
	if len(argv) > 0 {
		key, value, ok := strings.Cut(argv[0], "=")
		if key == "--data-dir" && ok {
			return value, argv[1:], nil
		}
		if key == "--data-dir" && len(argv) > 1 {
			return argv[1], argv[2:], nil
		}
	}
	if value := os.Getenv("K3S_DATA_DIR"); value != "" {
		return value, argv, nil
	}
	given, err := readFiles(os.Getenv("K3S_CONFIG_FILE"))
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return "", nil, err
	}
	return given.str("data-dir", defaultDataDir()), argv, nil
}

func runKubectl(argv []string) error {
	dataDir, argv, err := clientDataDir(argv)
	if err != nil {
		return err
	}
	if _, err := extract(dataDir); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if os.Getenv("KUBECONFIG") == "" {
		if _, err := os.Stat(adminKubeconfig()); err == nil {
			os.Setenv("KUBECONFIG", adminKubeconfig())
		}
	}
	os.Args = append([]string{"kubectl"}, argv...)
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
	return nil
}

func runCtr(argv []string) error {
	dataDir, argv, err := clientDataDir(argv)
	if err != nil {
		return err
	}
	bin, err := extract(dataDir)
	if err != nil {
		return err
	}
	for key, value := range map[string]string{"CONTAINERD_NAMESPACE": "k8s.io", "CONTAINERD_ADDRESS": containerdSocket()} {
		if os.Getenv(key) == "" {
			os.Setenv(key, value)
		}
	}
	return syscall.Exec(filepath.Join(bin, "ctr"), append([]string{"ctr"}, argv...), os.Environ())
}
