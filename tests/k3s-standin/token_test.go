package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseToken(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	cases := []struct {
		text string
		want token
		fail string
	}{
		{text: "secret\n", want: token{user: "node", password: "secret"}},
		{text: "K10" + hash + "::server:pw", want: token{caHash: hash, user: "server", password: "pw"}},
		{text: "K10" + hash + "::node:p:w", want: token{caHash: hash, user: "node", password: "p:w"}},
		{text: "K10" + hash + "::abcdef.0123456789abcdef", want: token{caHash: hash, id: "abcdef", password: "0123456789abcdef"}},
		{text: "abcdef.0123456789abcdef", want: token{id: "abcdef", password: "0123456789abcdef"}},
		{text: "K10short::node:pw", fail: "CA hash"},
		{text: "K10" + hash + "::node", fail: "format"},
		{text: " ", fail: "empty"},
	}
	for _, c := range cases {
		got, err := parseToken(c.text)
		if c.fail != "" {
			if err == nil || !strings.Contains(err.Error(), c.fail) {
				t.Errorf("%q: %v", c.text, err)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%q: %+v, %v", c.text, got, err)
		}
	}
}

func TestWriteTokens(t *testing.T) {
	dir := t.TempDir()
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, "server", name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	ca := []byte("ca")
	for _, agent := range []string{"", "apw", ""} { // each change must leave the others' files whole
		if err := writeTokens(dir, ca, "spw", agent); err != nil {
			t.Fatal(err)
		}
		want := fullToken(ca, "server", "spw")
		if read("token") != want || read("node-token") != want {
			t.Errorf("server token is %q, node-token %q", read("token"), read("node-token"))
		}
		if agent != "" {
			want = fullToken(ca, "node", agent)
		}
		if read("agent-token") != want {
			t.Errorf("agent token is %q", read("agent-token"))
		}
	}
}

func TestServerPasswords(t *testing.T) {
	dir := t.TempDir()
	hash := strings.Repeat("0", 64)
	server, agent, err := serverPasswords(settings{"token": {"K10" + hash + "::server:pw"}}, dir)
	if err != nil || server != "pw" || agent != "" {
		t.Errorf("got %q, %q, %v", server, agent, err)
	}
	if err := writeTokens(dir, []byte("ca"), "earlier", ""); err != nil {
		t.Fatal(err)
	}
	if server, _, err = serverPasswords(settings{}, dir); err != nil || server != "earlier" {
		t.Errorf("the earlier token was not read: %q, %v", server, err)
	}
}

func TestBootstrapDataOpensWithItsPasswordOnly(t *testing.T) {
	sealed, err := seal("pw", []byte("keys"))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := open("pw", sealed); err != nil || string(text) != "keys" {
		t.Errorf("got %q, %v", text, err)
	}
	if _, err := open("other", sealed); err == nil {
		t.Error("another password opened it")
	}
	if key := bootstrapKey("pw"); len(key) != len(bootstrapPrefix)+12 || key == bootstrapKey("other") {
		t.Errorf("key is %q", key)
	}
	if errors.Is(errOtherToken, errWrongPassword) {
		t.Error("two different refusals look alike")
	}
}
