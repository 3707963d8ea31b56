package main

import (
	"fmt"
	"net"
	"os"
	"strings"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// nodeName is the name the node registers with.
func nodeName(s settings) (string, error) {
	name := s.str("node-name", "")
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return "", err
		}
		name = host
	}
	return strings.ToLower(name), nil
}

// nodeIP is the configured address, or that of the interface with the default route. Like the real one this fails
// when there is neither.
func nodeIP(s settings) (net.IP, error) {
	if given := s.all("node-ip"); len(given) > 0 {
		ip := net.ParseIP(given[0])
		if ip == nil {
			return nil, fmt.Errorf("invalid node-ip %q", given[0])
		}
		return ip, nil
	}
	ip, err := utilnet.ChooseHostInterface()
	if err != nil {
		return nil, fmt.Errorf("unable to find suitable network address: %w", err)
	}
	return ip, nil
}

// serviceIP gives the n-th address of the service range: 1 is the API, 10 the cluster's DNS.
func serviceIP(cidr string, n byte) (string, error) {
	ip, _, err := net.ParseCIDR(cidr)
	if err != nil {
		return "", fmt.Errorf("invalid service-cidr: %w", err)
	}
	if v4 := ip.To4(); v4 != nil {
		ip = v4
	}
	ip[len(ip)-1] += n
	return ip.String(), nil
}
