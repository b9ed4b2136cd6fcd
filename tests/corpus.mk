# SPDX-License-Identifier: Apache-2.0
# Real and random recipes beside BuildKit (tests/corpus). PEERS is a command prefix behind which 'docker buildx' works.
#
#	make corpus CORPUS='copy-*' SEEDS=1-200

CORPUS ?=
SEEDS  ?= 1-100

corpus: all
	$(Q)tests/corpus/compare --mica $(BUILD)/mica $(CORPUS)
	$(Q)tests/corpus/random --mica $(BUILD)/mica --keep-going --seeds $(SEEDS)

.PHONY: corpus
