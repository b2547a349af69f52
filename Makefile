# TERO. "make help" lists what there is.
SHELL := /bin/bash
TOOLS := bin/tools

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(TOOLS)/%: tools/go.mod tools/go.sum
	@mkdir -p $(TOOLS)
	cd tools && go build -o ../$(TOOLS)/ $$(go list -f '{{.ImportPath}}' tool | grep '/$*$$')

.PHONY: generate
generate: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc ## Generate code from api/*.proto
	$(TOOLS)/buf lint
	$(TOOLS)/buf generate
