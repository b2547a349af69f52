// Command nolatest is an admission plugin that refuses images by their tag: "latest", unless its settings say otherwise.
package main

import (
	"slices"

	tero "tero.internal/plugin-manager/sdk"
)

func init() { //nolint:gochecknoinits // a plugin's main is never called
	tero.OnAdmit(func(h tero.Host, r *tero.LaunchRequest) tero.Decision {
		settings := struct{ Tags []string }{[]string{"latest"}}
		if err := h.Config(&settings); err != nil {
			return tero.Deny("settings", "%v", err)
		}
		if tag := r.Tag(); slices.Contains(settings.Tags, tag) {
			return tero.Deny("image.latest", "%s has the tag %q, which says nothing about what will run; name a version", r.Image, tag)
		}
		return tero.Allow()
	})
}

func main() {}
