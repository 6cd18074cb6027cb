# `make demo` and `make test` work on a bare Debian 12 with Rust: they install what is missing (as root, or with sudo).

SHELL := /bin/bash
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin
# Compilers and QEMUs at once; each QEMU of the tests wants a quarter of a gigabyte.
JOBS ?= $(shell n=$$(nproc); echo $$((n < 8 ? n : 8)))
TEST_THREADS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
CARGO := cargo
# What the tests run has named crash points; what is built to be used has not.
TESTED := --features oned/testing,system-tests/population
# The demonstration's own switch: STAY=1 leaves everything running at the end until Enter is pressed.
DEMO_ARGUMENTS := $(if $(STAY),--stay)

.PHONY: help setup build demo clean-demo test check bench torture

help:
	@echo 'make demo        a real VM backed up twice, restored and compared (STAY=1: look around at the end)'
	@echo 'make test        every test, with real libvirt, QEMU, restic and clients'
	@echo 'make check       format, lints, unit tests and the rules of the house'
	@echo 'make bench       how fast a backup, an increment and a restore are on this machine (QUICK=1: a small disk)'
	@echo 'make torture     backups while daemon, libvirt, guests and datastores are killed at random (ROUNDS=200, SEED=)'
	@echo 'make build       the daemon and the commands, into target/release'
	@echo 'make clean-demo  removes what the demonstration left in .demo'

setup:
	@tests/setup/packages.sh

build: setup
	$(CARGO) build --workspace --release --features system-tests/population -j$(JOBS)
	target=$${CARGO_TARGET_DIR:-target}; "$$target/release/keeplast" install-links --force "$$target/release"

demo: build
	target=$${CARGO_TARGET_DIR:-target}; "$$target/release/demo" $(DEMO_ARGUMENTS)

clean-demo:
	rm -rf .demo

test: setup
	$(CARGO) build --workspace -j$(JOBS) $(TESTED)
	$(CARGO) test --workspace -j$(JOBS) $(TESTED) --no-fail-fast -- --test-threads=$(TEST_THREADS)

check: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -j$(JOBS) $(TESTED) -- -D warnings
	$(CARGO) test --workspace --lib --bins -j$(JOBS) $(TESTED)
	$(CARGO) test -p system-tests --test tidy -j$(JOBS)

bench: build
	target=$${CARGO_TARGET_DIR:-target}; "$$target/release/bench" $(if $(QUICK),--quick)

torture: build
	target=$${CARGO_TARGET_DIR:-target}; "$$target/release/torture" $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED))
