# Sourced by the scripts: finds Python, makes .venv in the repository, and installs into it.
# $root is the repository, wherever the script is called from.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${TCL_TRAIN_VENV:-$root/.venv}"

say() { printf '%s\n' "$*" >&2; }

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

find_python() {
    local name
    for name in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        if command -v "$name" >/dev/null 2>&1 && new_enough "$name"; then
            command -v "$name"
            return
        fi
    done
    say "tcl-train needs Python 3.10 or newer; found: $(${PYTHON:-python3} --version 2>&1 || true)." \
        "Install a newer one, or name it: PYTHON=/path/to/python3 bash $0"
    exit 1
}

make_venv() {
    local python
    if [ ! -x "$venv/bin/python" ] || ! new_enough "$venv/bin/python"; then
        python="$(find_python)" || exit 1
        say "making $venv with $("$python" --version)"
        "$python" -m venv "$venv" || { say "could not make $venv; is the venv module installed?"; exit 1; }
    fi
}

# install EXTRAS: makes .venv if need be and installs the project with its extras ("" or "[test]") into
# it. Does nothing where the same pyproject.toml has been installed the same way before.
install() {
    local stamp
    make_venv
    stamp="$venv/.installed-$(printf '%s' "$1" | tr -c 'a-z\n' '_')"
    if ! cmp -s "$root/pyproject.toml" "$stamp"; then
        say "installing tcl-train and what it needs (a few minutes the first time)"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$root$1" ||
            { say "the installation failed; the lines above say why"; exit 1; }
        cp "$root/pyproject.toml" "$stamp"
    fi
}
