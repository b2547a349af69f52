// Package reach has the words for a node that cannot be reached, for all programs
// that talk to one.
package reach

// Closed is what to say when the node at that address ended a connection in the
// middle of a call.
func Closed(name string) (message, hint string) {
	return "the node at " + name + " closed the connection",
		"containers run on without it; start it again with \"sudo tero up\", and see its log for the reason"
}

// DefaultSocket is where a node's API socket is unless somebody said otherwise.
const DefaultSocket = "/run/tero/tero.sock"
