"""What forked processes begin with: forgotten, each would import for seconds, and no test fail."""

from tests import prepared


def test_everything_is_imported_before_a_process_begins(tmp_path):
    code = f"import sys; print(*set({prepared.IMPORTED}).difference(sys.modules))"
    done = prepared.run(["python", "-c", code], cwd=tmp_path)
    assert (done.stdout.split(), done.returncode) == ([], 0), done.stderr
