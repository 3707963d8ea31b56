package main

import (
	"net"
	"os"

	"github.com/sirupsen/logrus"
)

// notify tells systemd how far the start has come; without systemd it does nothing.
func notify(state string) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(state + "\n"))
		conn.Close()
	}
	if err != nil {
		logrus.Warnf("standin: failed to notify systemd: %v", err)
	}
}
