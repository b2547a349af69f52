// Package pluginpkg makes and reads plugin packages. A package is an OCI 1.1
// artifact in an OCI image layout:
//
//	index.json -> manifest (artifact type application/vnd.tero.plugin.v1)
//	                config: the plugin's manifest.json
//	                layer:  the WebAssembly module
//	           -> signature manifest (application/vnd.tero.plugin.signature.v1)
//	                subject: the manifest above
//	                layer:   the signature over the manifest's digest
//
// The signature thereby covers the plugin's manifest and its module. It lives
// in common because the CLI packs and signs without a node, and the node
// verifies.
package pluginpkg
