#!/usr/bin/env bash
# One more run of this recipe: the code and the arguments of the launch that this file lies in.
# Works from any directory; says what it will do before it does it. Options: --help
set -euo pipefail
here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
repository=$(dirname -- "$(dirname -- "$(dirname -- "$(dirname -- "$here")")")")
# the package as it was at launch, where the snapshot holds it
[[ -d $here/src/evenkeel ]] && export PYTHONPATH=$here/src${PYTHONPATH:+:$PYTHONPATH}
can_run() { "$1" -c 'import evenkeel.cli.continuation' 2>/dev/null; }
for python in "${EVENKEEL_PYTHON:-}" @PYTHON@ "$repository/.venv/bin/python" \
  "$(command -v python || true)" "$(command -v python3 || true)"; do
  if [[ -x $python ]] && can_run "$python"; then
    exec "$python" -P -m evenkeel.cli.main continue "$here" "$@"
  fi
done
echo "continue.sh: no Python here can import evenkeel; the one of the launch was:" @PYTHON@ >&2
echo "  fix: EVENKEEL_PYTHON=/path/to/python $0, or run this with evenkeel's environment active" >&2
exit 3
