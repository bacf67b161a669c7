#!/usr/bin/env bash
# What is in deploy/, as the tools that will read it read it: unit files, manifests, rules, snippets, scripts, the Dockerfile. A
# tool that is not here is named and skipped; a complaint fails. `make test-deploy`
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
complain() { printf 'FAILED  %s\n' "$1"; [ ! -s "$work/said" ] || cat "$work/said"; failed=1; }
# what, tool, command: no output is wanted where the first word of `what` is `silent`.
check() {
    local what=$1 tool=$2; shift 2
    if ! command -v "$tool" >/dev/null; then printf 'skipped %s: there is no %s\n' "${what#silent }" "$tool"; return; fi
    if "$@" >"$work/said" 2>&1 && { [ "$what" = "${what#silent }" ] || [ ! -s "$work/said" ]; }; then
        printf 'ok      %s\n' "${what#silent }"
    else
        complain "${what#silent }"
    fi
}

# systemd looks whether the programs are there; these stand for them.
units() {
    local root=$work/root
    mkdir -p "$root/usr/bin" "$root/lib" "$root/usr/lib/systemd/system"
    ln -s usr/bin "$root/bin"
    ln -s ../usr/lib/systemd "$root/lib/systemd"
    cp /usr/bin/true "$root/usr/bin/pglull"
    cp /usr/bin/true "$root/usr/bin/kill"
    # What every unit wants by default.
    for target in sysinit basic sockets shutdown network-online multi-user; do
        printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' "$target" >"$root/usr/lib/systemd/system/$target.target"
    done
    for unit in -.slice system.slice; do printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' "$unit" >"$root/usr/lib/systemd/system/$unit"; done
    cp deploy/systemd/* "$root/usr/lib/systemd/system/"
    systemd-analyze verify --man=no --root="$root" pglull.service pglull.socket
}
exposure() {
    local score
    score=$(systemd-analyze security --offline=true deploy/systemd/pglull.service | sed -n 's/.*level for pglull.service: \([0-9.]*\).*/\1/p')
    echo "exposure ${score:-unknown}, at most 2.0"
    awk -v score="$score" 'BEGIN { exit !(score != "" && score <= 2.0) }'
}
check "silent systemd-analyze verify" systemd-analyze units
check "systemd-analyze security" systemd-analyze exposure

check "promtool check rules" promtool promtool check rules deploy/prometheus/recording.yml deploy/prometheus/alerts.yml
check "promtool test rules" promtool promtool test rules deploy/prometheus/tests.yml
check "promtool check config" promtool promtool check config --syntax-only deploy/prometheus/scrape.yml

for folder in base overlays/one overlays/many overlays/window-job; do
    rendered=$work/$(basename "$folder").yaml
    render() { kubectl kustomize "deploy/kubernetes/$folder" >"$rendered"; }
    check "kubectl kustomize $folder" kubectl render
    [ -s "$rendered" ] || continue
    if command -v kubeconform >/dev/null; then
        check "kubeconform $folder" kubeconform kubeconform -strict "$rendered"
    else
        check "kubernetes-validate $folder" kubernetes-validate kubernetes-validate --strict -k 1.33 "$rendered"
    fi
done

# The configurations, by the program itself where it is built (PGLULL names it).
program=${PGLULL:-target/debug/pglull}
configurations() {
    sed "s|/etc/pglull-users/|$PWD/deploy/kubernetes/base/|" deploy/kubernetes/base/pglull.toml >"$work/pod.toml"
    cp deploy/debian/pglull.toml deploy/debian/users.txt "$work"
    "$program" check "$work/pod.toml" && "$program" check "$work/pglull.toml"
}
check "pglull check" "$program" configurations

check "GitHub Actions" check-jsonschema check-jsonschema --builtin-schema vendor.github-workflows deploy/pipelines/github-actions.yml
check "GitLab CI" check-jsonschema check-jsonschema --builtin-schema vendor.gitlab-ci deploy/pipelines/gitlab-ci.yml
check "hadolint" hadolint hadolint Dockerfile
mapfile -t scripts < <(find deploy -name '*.sh' | sort)
check "shellcheck" shellcheck shellcheck -e SC2317 "${scripts[@]}" deploy/debian/{postinst,prerm,postrm}
check "yamllint" yamllint yamllint -d '{extends: relaxed, rules: {line-length: disable}}' deploy
exit "$failed"
