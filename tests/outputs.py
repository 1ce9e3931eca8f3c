"""Checks that what the documentation shows of psql's tables is what psql has printed, apart from numbers and lines' widths.

Usage: outputs.py FILE_OF_WHAT_PSQL_HAS_PRINTED PAGE...
"""

import pathlib
import re
import sys


def normal(line):
    """Numbers and times are others each time, and widths go with them."""
    line = re.sub(r"-{3,}", "---", re.sub(r"\d+", "0", line))
    return re.sub(r"\s+", " ", line).strip()


def tables(page):
    text = re.sub(r"^```.*?^```", "", pathlib.Path(page).read_text(), flags=re.M | re.S)
    blocks = re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", text, flags=re.M)
    return [block for block in blocks if re.search(r"---|-\[ RECORD", block)]


printed = {normal(line) for line in pathlib.Path(sys.argv[1]).read_text().splitlines()}
wrong = []
for page in sys.argv[2:]:
    for table in tables(page):
        wrong += [f"{page}: {line.strip()}" for line in table.splitlines() if normal(line) not in printed]
print("\n".join(wrong))
sys.exit(bool(wrong))
