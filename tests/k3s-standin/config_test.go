package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// given writes files below a root of the test's own and makes them the configuration.
func given(t *testing.T, files map[string]string) {
	t.Helper()
	root := t.TempDir()
	t.Setenv("K3S_STANDIN_ROOT", root)
	for _, name := range environment {
		t.Setenv(name, "")
	}
	for name, text := range files {
		if err := writeFile(filepath.Join(root, "etc/rancher/k3s", name), 0o600, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSettingsFromFilesFlagsAndEnvironment(t *testing.T) {
	files := map[string]string{
		"config.yaml":           "token: file\nnode-label: [a=1]\ntls-san: [one]\nwrite-kubeconfig-mode: \"0600\"\ncluster-init: true\n",
		"config.yaml.d/20.yml":  "{\"tls-san+\": [\"three\"], \"node-name\": \"json\"}",
		"config.yaml.d/10.yaml": "node-label: [b=2, c=3]\ntls-san+: two\n",
		"config.yaml.d/zz.txt":  "token: ignored\n",
	}
	cases := map[string]struct {
		env, argv []string
		key       string
		want      []string
	}{
		"a later file replaces a list":          {key: "node-label", want: []string{"b=2", "c=3"}},
		"a plus appends, in alphabetical order": {key: "tls-san", want: []string{"one", "two", "three"}},
		"a file may be JSON":                    {key: "node-name", want: []string{"json"}},
		"a flag overrides a list":               {argv: []string{"--node-label", "x=y", "--node-label=z=w"}, key: "node-label", want: []string{"x=y", "z=w"}},
		"a file is stronger than environment":   {env: []string{"K3S_TOKEN", "env"}, key: "token", want: []string{"file"}},
		"environment alone":                     {env: []string{"K3S_RESOLV_CONF", "/r"}, key: "resolv-conf", want: []string{"/r"}},
		"a flag is strongest":                   {argv: []string{"-t", "flag"}, key: "token", want: []string{"flag"}},
		"a switch needs no value":               {argv: []string{"--disable-agent"}, key: "disable-agent", want: []string{"true"}},
		"a quoted mode stays":                   {key: "write-kubeconfig-mode", want: []string{"0600"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			given(t, files)
			if c.env != nil {
				t.Setenv(c.env[0], c.env[1])
			}
			s, err := loadSettings("server", c.argv)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(s[c.key], c.want) {
				t.Errorf("%s is %q, not %q", c.key, s[c.key], c.want)
			}
		})
	}
}

func TestYAML11TurnsAnUnquotedModeIntoANumber(t *testing.T) {
	given(t, map[string]string{"config.yaml": "write-kubeconfig-mode: 0644\n"})
	s, err := loadSettings("server", nil)
	if err != nil || s.str("write-kubeconfig-mode", "") != "420" {
		t.Errorf("got %q, %v", s["write-kubeconfig-mode"], err)
	}
}

func TestUnknownKeys(t *testing.T) {
	given(t, map[string]string{"config.yaml": "cluster-init: true\ntypo: 1\n"})
	s, err := loadSettings("server", nil)
	if err != nil || s["typo"] != nil {
		t.Errorf("the server did not drop it: %v, %v", s, err)
	}
	for _, text := range []string{"typo: 1\n", "cluster-init: true\n", "tls-san: [a]\n"} {
		given(t, map[string]string{"config.yaml": text})
		if _, err := loadSettings("agent", nil); err == nil || !strings.Contains(err.Error(), "flag provided but not defined") {
			t.Errorf("the agent took %q: %v", text, err)
		}
	}
}

func TestConfigFileElsewhere(t *testing.T) {
	given(t, map[string]string{"config.yaml": "token: default\n", "other.yaml": "token: other\n"})
	other := filepath.Join(os.Getenv("K3S_STANDIN_ROOT"), "etc/rancher/k3s/other.yaml")
	t.Setenv("K3S_CONFIG_FILE", other)
	s, err := loadSettings("agent", nil)
	if err != nil || s.str("token", "") != "other" {
		t.Errorf("got %v, %v", s, err)
	}
}

func TestArguments(t *testing.T) {
	a := arguments{"v": {"1"}, "gone": {"x"}, "list": {"a"}, "kept": {"k"}}
	a.merge([]string{"v=2", "gone-=", "list+=b", "--new=1", "new=2", "bare"})
	want := []string{"--bare=true", "--kept=k", "--list=a", "--list=b", "--new=1", "--new=2", "--v=2"}
	if got := a.list(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
}
