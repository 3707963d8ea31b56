// Command pack makes the two archives of the stand-in: the helper programs in its binary, and its airgap images.
// Equal inputs give equal bytes: names are sorted, times and owners are fixed.
package main

import (
	"fmt"
	"os"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 4 && os.Args[1] == "payload":
		err = payload(os.Args[2], os.Args[3])
	case len(os.Args) > 3 && os.Args[1] == "images":
		err = images(os.Args[2], os.Args[3:])
	default:
		err = fmt.Errorf("usage: pack payload FOLDER INTO | pack images FILE NAME=PROGRAM...")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}
