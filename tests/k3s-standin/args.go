package main

import (
	"sort"
	"strings"
)

// arguments are a component's options. A user's own replace ours of the same name; `name+=` adds, `name-=` removes.
type arguments map[string][]string

func (a arguments) set(key string, values ...string) { a[key] = values }

// merge lays the user's `name=value` list over ours.
func (a arguments) merge(user []string) {
	replaced := map[string]bool{}
	for _, one := range user {
		key, value, ok := strings.Cut(strings.TrimLeft(one, "-"), "=")
		if !ok {
			value = "true"
		}
		switch {
		case strings.HasSuffix(key, "-"):
			delete(a, strings.TrimSuffix(key, "-"))
		case strings.HasSuffix(key, "+"):
			key = strings.TrimSuffix(key, "+")
			a[key] = append(a[key], value)
		case replaced[key]:
			a[key] = append(a[key], value)
		default:
			a[key] = []string{value}
			replaced[key] = true
		}
	}
}

// list gives the command line, in a stable order.
func (a arguments) list() []string {
	keys := make([]string, 0, len(a))
	for key := range a {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	var argv []string
	for _, key := range keys {
		for _, value := range a[key] {
			argv = append(argv, "--"+key+"="+value)
		}
	}
	return argv
}
