// Package tools pins the developers' tools; go.mod lists them (go tool).
package tools
