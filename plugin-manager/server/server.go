// Package server answers the plugin manager's API.
package server

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	pluginv1 "tero.internal/api/plugin/v1"
	"tero.internal/common/fault"
	"tero.internal/plugin-manager/host"
)

// Server implements PluginService on a host.
type Server struct {
	pluginv1.UnsafePluginServiceServer // so that a method that is missing does not compile
	host                               *host.Host
}

// New gives a server for h. Register it with pluginv1.RegisterPluginServiceServer.
func New(h *host.Host) *Server { return &Server{host: h} }

// InstallPlugin takes a header and a package.
func (s *Server) InstallPlugin(stream grpc.ClientStreamingServer[pluginv1.InstallPluginRequest, pluginv1.InstallPluginResponse]) error {
	first, err := stream.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	header := first.GetHeader()
	if header == nil {
		return fault.New(fault.Invalid, "the first message of InstallPlugin is not a header").WithHint("use a client of this version")
	}
	info, err := s.host.Install(stream.Context(), &tarReader{stream: stream}, host.Decision{
		Settings: header.GetSettings(), Grants: header.GetGrants(), GrantRequired: header.GetGrantRequired(),
	})
	if err != nil {
		return err
	}
	return stream.SendAndClose(&pluginv1.InstallPluginResponse{Plugin: message(info)})
}

// tarReader reads the pieces of a tar from the stream.
type tarReader struct {
	stream grpc.ClientStreamingServer[pluginv1.InstallPluginRequest, pluginv1.InstallPluginResponse]
	rest   []byte
}

// Read gives the next bytes of the tar.
func (r *tarReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		m, err := r.stream.Recv()
		if err != nil {
			return 0, err // io.EOF when the client is done
		}
		if m.GetHeader() != nil {
			return 0, fault.New(fault.Invalid, "a second header follows in InstallPlugin").WithHint("use a client of this version")
		}
		r.rest = m.GetTar()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// ListPlugins gives the installed plugins.
func (s *Server) ListPlugins(context.Context, *pluginv1.ListPluginsRequest) (*pluginv1.ListPluginsResponse, error) {
	resp := &pluginv1.ListPluginsResponse{}
	for _, i := range s.host.List() {
		resp.Plugins = append(resp.Plugins, message(i))
	}
	return resp, nil
}

// GrantPlugin replaces a plugin's grants.
func (s *Server) GrantPlugin(ctx context.Context, r *pluginv1.GrantPluginRequest) (*pluginv1.GrantPluginResponse, error) {
	info, err := s.host.Grant(ctx, r.GetName(), host.Decision{Grants: r.GetGrants(), GrantRequired: r.GetGrantRequired()})
	if err != nil {
		return nil, err
	}
	return &pluginv1.GrantPluginResponse{Plugin: message(info)}, nil
}

// RemovePlugin removes a plugin.
func (s *Server) RemovePlugin(ctx context.Context, r *pluginv1.RemovePluginRequest) (*pluginv1.RemovePluginResponse, error) {
	info, err := s.host.Remove(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	return &pluginv1.RemovePluginResponse{Plugin: message(info)}, nil
}

// InspectPlugin tells all about a plugin.
func (s *Server) InspectPlugin(_ context.Context, r *pluginv1.InspectPluginRequest) (*pluginv1.InspectPluginResponse, error) {
	d, err := s.host.Inspect(r.GetName())
	if err != nil {
		return nil, err
	}
	return &pluginv1.InspectPluginResponse{Plugin: message(d.Info), Manifest: d.ManifestJSON, Settings: d.Settings, Imports: d.Imports}, nil
}

func message(i host.Info) *pluginv1.Plugin {
	p := &pluginv1.Plugin{
		Name: i.Name, Version: i.Version, Digest: i.Digest.String(), State: string(i.State), Reason: i.Reason,
		Required: i.Required, Optional: i.Optional, Grants: i.Grants, Signer: i.Signer, KeyId: i.KeyID,
		Installed: timestamppb.New(i.Installed),
		Stats: &pluginv1.Stats{
			Calls: i.Stats.Calls, Denials: i.Stats.Denials, Failures: i.Stats.Failures,
			Ticks: i.Stats.Ticks, LogBytesDropped: i.Stats.LogBytesDropped,
		},
	}
	for _, h := range i.Hooks {
		p.Hooks = append(p.Hooks, &pluginv1.Hook{Point: h.Point, Writes: h.Writes, After: h.Order.After})
	}
	return p
}
