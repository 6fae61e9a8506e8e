set shell := ["bash", "-euc"]

# these recipes
default:
    @just --list --unsorted

# static release binaries
build:
    . tests/toolchain; need_rust; build_release; ls -l "$release"/orlop{,-shim}

# a first container
hello:
    ./hello

# format, lints and every test, natively and in the virtual machine; arguments go to the runner
test *arguments:
    tests/run {{arguments}}

fmt:
    cargo fmt

lint:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings

# the dependencies against deny.toml and the database of advisories, which takes a network
deny:
    cargo deny check

# against each of runc, crun and youki that is installed, and the floor (as root, on a quiet machine)
bench *arguments:
    tests/bench/run {{arguments}}

# what a supervisor costs beside its container, and containerd's shims; how soon it knows of an OOM kill, in the virtual machine
bench-shim:
    tests/bench/shim
    tests/bench/oom

# runc's own integration tests with RUNC=orlop; arguments are names of bats files
conformance *arguments:
    tests/conformance/run {{arguments}}

# engines with orlop in runc's place; arguments: --vm, --runtime PROGRAM, and podman, ctr, cri, docker, buildah
engines *arguments:
    tests/engines/run {{arguments}}

# probes for ways out of a container; `--runtime PROGRAM` tries another runtime
breakout *arguments:
    tests/breakout/run {{arguments}}

# configurations that are changed at random, for ten minutes; what fails lies in target/fuzz
fuzz seconds="600":
    FUZZ_SECONDS={{seconds}} cargo test --test fuzz -- --nocapture

# the long counts, in parts of less than an hour: those that have no good result yet for this commit, or the ones that are named
full *parts:
    tests/full {{parts}}

# what the kernel would be asked to do for a bundle
plan bundle="bundles/hello":
    cargo run --quiet -- plan --bundle {{bundle}}

# binaries, man pages and completions under a prefix, e.g. `just install ~/.local`
install prefix="/usr/local": build
    #!/bin/bash
    set -euo pipefail
    . tests/toolchain
    build_release
    prefix=${DESTDIR:-}{{prefix}}
    install -D -m 755 -t "$prefix/bin" "$release/orlop"
    install -D -m 755 -t "$prefix/bin" "$release/orlop-shim"
    ln -sfn orlop-shim "$prefix/bin/containerd-shim-orlop-v2"
    cargo run --quiet --example share "$prefix/share"
