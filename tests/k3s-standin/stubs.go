package main

import (
	"context"
	"errors"
	"net/http"
)

func clusterReset(ctx context.Context, s settings) error  { return errors.New("x") }
func (s *server) keepBootstrap(ctx context.Context) error { return nil }
func (s *server) snapshotRoutes() http.Handler            { return http.NotFoundHandler() }
func (s *server) scheduleSnapshots(ctx context.Context)   {}
func runSnapshot(argv []string) error                     { return nil }
func runToken(argv []string) error                        { return nil }
