package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/sirupsen/logrus"
	"go.yaml.in/yaml/v2"
)

// settings is the outcome of files, flags and environment: one or more values for each key.
type settings map[string][]string

func (s settings) str(key, fallback string) string {
	if values := s[key]; len(values) > 0 && values[len(values)-1] != "" {
		return values[len(values)-1]
	}
	return fallback
}

func (s settings) is(key string) bool {
	switch strings.ToLower(s.str(key, "")) {
	case "true", "1", "t", "yes", "on":
		return true
	}
	return false
}

// all gives a list; a value may itself hold several, with commas between.
func (s settings) all(key string) (values []string) {
	for _, value := range s[key] {
		for _, part := range strings.Split(value, ",") {
			if part = strings.TrimSpace(part); part != "" {
				values = append(values, part)
			}
		}
	}
	return values
}

// loadSettings reads what a role was told, from the weakest source to the strongest.
func loadSettings(role string, argv []string) (settings, error) {
	known := keysFor(role)
	flags, err := parseFlags(known, argv)
	if err != nil {
		return nil, err
	}
	merged := settings{}
	for key, name := range environment {
		if value := os.Getenv(name); value != "" {
			if _, ok := known[key]; ok {
				merged[key] = []string{value}
			}
		}
	}
	file := flags.str("config", merged.str("config", ""))
	given, err := readFiles(file)
	if err != nil {
		return nil, err
	}
	for key, values := range given {
		if _, ok := known[key]; ok {
			merged[key] = values
			continue
		}
		if role == "agent" {
			return nil, fmt.Errorf("flag provided but not defined: -%s", key)
		}
		logrus.Warnf("Unknown flag --%s found in config.yaml, skipping", key)
	}
	for key, values := range flags {
		merged[key] = values
	}
	return merged, nil
}

// parseFlags reads `--key value`, `--key=value` and bare switches.
func parseFlags(known map[string]kind, argv []string) (settings, error) {
	flags := settings{}
	for i := 0; i < len(argv); i++ {
		arg := argv[i]
		if !strings.HasPrefix(arg, "-") {
			return nil, fmt.Errorf("unexpected argument %q", arg)
		}
		key, value, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if long, ok := letters[key]; ok {
			key = long
		}
		k, ok := known[key]
		switch {
		case !ok:
			return nil, fmt.Errorf("flag provided but not defined: -%s", key)
		case hasValue:
		case k == toggle:
			value = "true"
		case i+1 < len(argv):
			i++
			value = argv[i]
		default:
			return nil, fmt.Errorf("flag needs an argument: -%s", key)
		}
		if k == list {
			flags[key] = append(flags[key], value)
		} else {
			flags[key] = []string{value}
		}
	}
	return flags, nil
}

// readFiles reads the named file (or the default one) and then its `.d` folder, in alphabetical order.
func readFiles(file string) (settings, error) {
	named := file != ""
	if !named {
		file = under("/etc/rancher/k3s/config.yaml")
	}
	merged := settings{}
	paths := []string{file}
	extra, err := filepath.Glob(file + ".d/*")
	if err != nil {
		return nil, err
	}
	sort.Strings(extra)
	for _, path := range extra {
		if ext := filepath.Ext(path); ext == ".yaml" || ext == ".yml" {
			paths = append(paths, path)
		}
	}
	for i, path := range paths {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && i == 0 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("failed to read the configuration: %w", err)
		}
		if err := mergeYAML(merged, text); err != nil {
			return nil, fmt.Errorf("failed to parse %s: %w", path, err)
		}
	}
	return merged, nil
}

// mergeYAML lays one file over the others. It is YAML 1.1, as with the real one: an unquoted 0644 becomes 420.
func mergeYAML(merged settings, text []byte) error {
	var items yaml.MapSlice
	if err := yaml.Unmarshal(text, &items); err != nil {
		return err
	}
	for _, item := range items {
		key := fmt.Sprint(item.Key)
		name, appends := strings.CutSuffix(key, "+")
		values := flatten(item.Value)
		if appends {
			values = append(append([]string{}, merged[name]...), values...)
		}
		merged[name] = values
	}
	return nil
}

func flatten(value any) []string {
	switch v := value.(type) {
	case nil:
		return []string{""}
	case []any:
		values := []string{}
		for _, one := range v {
			values = append(values, fmt.Sprint(one))
		}
		return values
	default:
		return []string{fmt.Sprint(v)}
	}
}
