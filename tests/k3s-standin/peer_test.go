package main

import (
	"reflect"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestCriticalArguments(t *testing.T) {
	read := func(text string) criticalArgs {
		given(t, map[string]string{"config.yaml": text})
		s, err := loadSettings("server", nil)
		if err != nil {
			t.Fatal(err)
		}
		args, err := (&server{settings: s}).criticalArgs()
		if err != nil {
			t.Fatal(err)
		}
		return args
	}
	base := read("disable: [servicelb, traefik]\nsecrets-encryption: true\n")
	for text, want := range map[string][]string{
		"disable: [servicelb]\nsecrets-encryption: true\ntls-san: [x]\nnode-name: other\n": nil,
		"disable: [servicelb]\n":                                 {"secrets-encryption"},
		"secrets-encryption: true\ncluster-cidr: 10.52.0.0/16\n": {"cluster-cidr", "disable-service-lb"},
		"disable: servicelb\nsecrets-encryption: true\nservice-cidr: 10.53.0.0/16\nflannel-backend: host-gw\n": {
			"service-cidr", "cluster-dns", "flannel-backend"},
	} {
		if got := base.mismatch(read(text)); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q, not %q", text, got, want)
		}
	}
}

func TestMembersAndTheirAddresses(t *testing.T) {
	given(t, map[string]string{"config.yaml": "node-ip: 10.0.0.1\n"})
	s, err := loadSettings("server", nil)
	if err != nil {
		t.Fatal(err)
	}
	srv := &server{settings: s, ports: portsFor(6443)}
	if srv.ip, err = nodeIP(s); err != nil {
		t.Fatal(err)
	}
	members := []*etcdserverpb.Member{
		{Name: "m1-0a", PeerURLs: []string{"https://10.0.0.1:2380"}},
		{Name: "m2-0b", PeerURLs: []string{"https://10.0.0.2:2380"}},
		{Name: "m3-0c", PeerURLs: []string{"https://10.0.0.3:2380"}, IsLearner: true},
		{Name: "old-0d", PeerURLs: []string{"https://127.0.0.1:2380"}},
	}
	if got := srv.addresses(members); !reflect.DeepEqual(got, []string{"10.0.0.1", "10.0.0.2"}) {
		t.Errorf("got %q", got)
	}
	if got := nodeOf("k3s-m1-0123abcd"); got != "k3s-m1" {
		t.Errorf("got %q", got)
	}
	for url, want := range map[string]string{"https://a:6443": "https://a:2379", "https://a": "https://a:2379", "https://a:7000": "https://a:7002"} {
		if got, err := etcdOf(url); err != nil || got != want {
			t.Errorf("%s: %s, %v", url, got, err)
		}
	}
	if got := srv.urls(2379); got != "https://127.0.0.1:2379,https://10.0.0.1:2379" {
		t.Errorf("got %s", got)
	}
}
