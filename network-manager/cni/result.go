package cni

import (
	"encoding/json"
	"errors"
	"net/netip"

	"tero.internal/common/fault"
	"tero.internal/network-manager/network"
)

// errorBody is the SPEC's error (section 5).
type errorBody struct {
	CNIVersion string `json:"cniVersion"`
	Code       int    `json:"code"`
	Message    string `json:"msg"`
	Details    string `json:"details,omitempty"`
}

func errorResult(version string, err error) errorBody {
	if own, ok := errors.AsType[cniError](err); ok {
		return errorBody{version, own.code, own.message, own.details}
	}
	return errorBody{version, codeOf(err), err.Error(), fault.HintOf(err)}
}

type versionBody struct {
	CNIVersion        string   `json:"cniVersion"`
	SupportedVersions []string `json:"supportedVersions"`
}

func versionResult() versionBody { return versionBody{"1.1.0", Versions()} }

// success is the SPEC's result of ADD (section 5). Version 0.4.0 has one field more in ips.
type success struct {
	CNIVersion string  `json:"cniVersion"`
	Interfaces []iface `json:"interfaces"`
	IPs        []ip    `json:"ips"`
	Routes     []route `json:"routes"`
	DNS        dns     `json:"dns"`
}

type iface struct {
	Name    string `json:"name"`
	MAC     string `json:"mac"`
	MTU     int    `json:"mtu,omitempty"`
	Sandbox string `json:"sandbox,omitempty"`
}

type ip struct {
	Version   string `json:"version,omitempty"`
	Address   string `json:"address"`
	Gateway   string `json:"gateway,omitempty"`
	Interface *int   `json:"interface,omitempty"`
}

type route struct {
	Destination string `json:"dst"`
	Gateway     string `json:"gw,omitempty"`
}

type dns struct {
	Nameservers []string `json:"nameservers,omitempty"`
	Domain      string   `json:"domain,omitempty"`
	Search      []string `json:"search,omitempty"`
	Options     []string `json:"options,omitempty"`
}

// addResult gives the result of ADD, on top of that of the plugins before in
// the chain.
func addResult(c config, netns string, e network.Endpoint) (any, error) {
	var out success
	if len(c.PrevResult) > 0 {
		if err := json.Unmarshal(c.PrevResult, &out); err != nil {
			return nil, cniError{codeDecode, "prevResult cannot be read", err.Error()}
		}
	}
	w := e.Workload()
	mtu := 0
	if c.CNIVersion == "1.1.0" {
		mtu = e.MTU
	}
	inner := len(out.Interfaces) + 1
	out.CNIVersion = c.CNIVersion
	out.Interfaces = append(out.Interfaces,
		iface{Name: e.HostInterface, MAC: e.HostMAC, MTU: mtu},
		iface{Name: e.Interface, MAC: e.MAC, MTU: mtu, Sandbox: netns})
	address := ip{Address: w.Address.String(), Gateway: e.Gateway.String(), Interface: &inner}
	if c.CNIVersion == "0.4.0" {
		address.Version = "4"
	}
	out.IPs = append(out.IPs, address)
	out.Routes = append(out.Routes, route{Destination: "0.0.0.0/0", Gateway: e.Gateway.String()})
	out.DNS.Nameservers = append(out.DNS.Nameservers, texts(w.DNS)...)
	out.DNS.Search = append(out.DNS.Search, w.Search...)
	return out, nil
}

func texts(as []netip.Addr) []string {
	var out []string
	for _, a := range as {
		out = append(out, a.String())
	}
	return out
}
