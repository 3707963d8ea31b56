package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
)

// stopWait is how long a child may take to end by itself before it is killed.
const stopWait = 10 * time.Second

// children are the programs this process runs. None outlives it, and it does not outlive any of them.
type children struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	mu     sync.Mutex
	order  []*child
	spawn  chan func()
}

type child struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
}

var errStopped = errors.New("stopped")

func newChildren(ctx context.Context) *children {
	ctx, cancel := context.WithCancelCause(ctx)
	c := &children{ctx: ctx, cancel: cancel, spawn: make(chan func())}
	go func() {
		// The kernel ties a parent-death signal to the thread that forked, so one thread forks and never ends.
		runtime.LockOSThread()
		for start := range c.spawn {
			start()
		}
	}()
	return c
}

// component starts one of the Kubernetes programs in this binary.
func (c *children) component(name string, argv ...string) error {
	return c.start(name, "/proc/self/exe", append([]string{name}, argv...), nil)
}

// start runs a program until the end of this process; argv includes the program's own name.
func (c *children) start(name, path string, argv, env []string) error {
	if err := c.ctx.Err(); err != nil {
		return context.Cause(c.ctx)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := &exec.Cmd{Path: path, Args: argv, Stdout: writer, Stderr: writer,
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}}
	for _, one := range os.Environ() {
		if len(one) < 14 || one[:14] != "NOTIFY_SOCKET=" { // only this process speaks to systemd
			cmd.Env = append(cmd.Env, one)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	started := make(chan error)
	c.spawn <- func() { started <- cmd.Start() }
	err = <-started
	writer.Close()
	if err != nil {
		reader.Close()
		return fmt.Errorf("failed to start %s: %w", name, err)
	}
	logrus.Infof("standin: running %s (pid %d)", name, cmd.Process.Pid)
	one := &child{name: name, cmd: cmd, done: make(chan struct{})}
	c.mu.Lock()
	c.order = append(c.order, one)
	c.mu.Unlock()
	go relay(name, reader)
	go c.watch(one)
	return nil
}

// watch ends everything when a child ends that nobody stopped.
func (c *children) watch(one *child) {
	err := one.cmd.Wait()
	close(one.done)
	if c.ctx.Err() == nil {
		if err == nil {
			err = errors.New("exit status 0")
		}
		c.cancel(fmt.Errorf("standin: %s ended: %w", one.name, err))
	}
}

// stop ends the children in the reverse order of their start, so that etcd goes last.
func (c *children) stop() {
	c.cancel(errStopped)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.order) - 1; i >= 0; i-- {
		one := c.order[i]
		one.cmd.Process.Signal(syscall.SIGTERM)
		// The components before the last need no order among themselves; only etcd must outlive the apiserver.
		if one.name != "kube-apiserver" && one.name != "etcd" {
			continue
		}
		one.wait()
	}
	for _, one := range c.order {
		one.wait()
	}
}

func (one *child) wait() {
	select {
	case <-one.done:
	case <-time.After(stopWait):
		one.cmd.Process.Kill()
		<-one.done
	}
}

// relay passes on a child's output, each line with its name.
func relay(name string, from io.ReadCloser) {
	defer from.Close()
	lines := bufio.NewReaderSize(from, 64<<10)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			if line[len(line)-1] != '\n' {
				line += "\n"
			}
			os.Stderr.WriteString("[" + name + "] " + line)
		}
		if err != nil {
			return
		}
	}
}
