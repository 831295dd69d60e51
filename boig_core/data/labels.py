"""Labels: what each chosen post is worth and where it belongs: percentile, bucket, split, group of
near-duplicates, negatives.

The paper leaves the map of a KPI to 0-100 open; ours is the mid-rank percentile within the account,
which ties, tails and the order of rows do not disturb. Splits are drawn by a hash of the post's id,
so that adding posts moves none of the others (but those that a new one shares an image with), by a
hash of its account, or by time, the earliest to train; posts whose images are the same or nearly so
belong together. Those of the split ``judge`` are drawn apart from that, so that keeping some moves
none of the others. Everything is a pure function of posts, images and seed. Leaves out: which posts
there are (see `selection`) and their images (see `fetch`).

Reads the tables ``post`` and ``image`` (post, place, reference, sha256, width, height,
fingerprint); makes ``sample``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from boig_core.config import Data
from boig_core.data.imaging.duplicates import components, near_pairs

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

NEGATIVE: Final = "~negative"
"""What the id of a negative ends in."""
TAKEN: Final = "another post has the id "
"""How the reason of a reject begins that quotes the id of another post."""


def label(con: DuckDBPyConnection, data: Data, seed: int) -> None:
    """Make ``sample`` from ``post`` and ``image``, and add to ``reject`` what can be in no split.

    Args:
        con: with its tables.
        data: percentiles, floors, shares, what never crosses splits, negatives.
        seed: of splits and negatives.
    """
    _group(con, data)
    _rank(con, data)
    _split(con, data, seed)
    _sample(con)
    if data.negatives:
        _negate(con, data, seed)


def uniform(purpose: str, key: str) -> str:
    """SQL for a number in [0, 1) that is a pure function of the parameter ``$seed``, ``purpose``
    and the column ``key``."""
    # 12 digits are 48 bits, which a float holds exactly, so that no number is rounded up to 1.
    # `chr(0)` parts the pieces, so that no two purposes and keys make one text.
    return f"(('0x' || sha256($seed || chr(0) || '{purpose}' || chr(0) || {key})[1:12])::UBIGINT / {float(2**48)})"


def _group(con: DuckDBPyConnection, data: Data) -> None:
    """``alike``: the group of each image: its own hash, or the smallest among those of its
    near-duplicates."""
    pairs = [] if data.near_duplicates is None else near_pairs(con, "image", data.near_duplicates)
    # Equal fingerprints make no pair, so images are first taken together by the fingerprint itself.
    looks = "sha256" if data.near_duplicates is None else "fingerprint"
    _put_names(con, "near", components(pairs))
    con.execute(
        f"""
        CREATE TABLE alike AS
        SELECT DISTINCT sha256, min(sha256) OVER (PARTITION BY coalesce(near.root, {looks})) AS grp
        FROM image LEFT JOIN near ON near.name = {looks}
        """
    )


def _rank(con: DuckDBPyConnection, data: Data) -> None:
    """``kpi``: value, percentile and bucket of each KPI of each post that has an image."""
    # A post that has lost all of its images becomes no sample, so it has no say in the ranks.
    con.execute("CREATE TABLE kept AS SELECT * FROM post WHERE id IN (SELECT post FROM image)")
    low, high = data.percentiles
    # No KPI is below 0, so a floor of 0 would leave out those of exactly 0 alone: it is no floor.
    floors = " ".join(
        f"WHEN '{bucket}' THEN {floor if floor > 0 else -1!r}"
        for bucket, floor in zip(("low", "medium", "high"), data.floors, strict=True)
    )
    con.execute(
        f"""
        CREATE TABLE kpi AS
        WITH value AS (
            SELECT id, account, unnest(kpis) AS value, generate_subscripts(kpis, 1) AS nr FROM kept
        ), ranked AS (
            SELECT id, nr, value, 100 * (rank() OVER below - 1 + count(*) OVER equal / 2.0) / count(*) OVER own AS percentile
            FROM value WHERE value IS NOT NULL
            WINDOW own AS (PARTITION BY account, nr), below AS (PARTITION BY account, nr ORDER BY value),
                equal AS (PARTITION BY account, nr, value)
        ), named AS (
            SELECT *, CASE WHEN percentile < {low!r} THEN 'low' WHEN percentile < {high!r} THEN 'medium' ELSE 'high' END AS bucket
            FROM ranked
        )
        SELECT id, nr, value, round(percentile, 4) AS normalized,
            CASE WHEN nr > 1 OR value > CASE bucket {floors} END THEN bucket END AS bucket
        FROM named
        """
    )


def _split(con: DuckDBPyConnection, data: Data, seed: int) -> None:
    """``placed``: the split of each post; none when its image also stands in a split that comes
    first."""
    # What must not cross splits moves together: posts, or accounts, that share an image or nearly,
    # directly or through others. Pairs with the first of a group say as much as all pairs would.
    unit = "account" if data.split_by == "account" else "id"
    pairs = con.execute(
        f"""
        WITH linked AS (
            SELECT DISTINCT grp, min({unit}) OVER (PARTITION BY grp) AS first, {unit} AS unit
            FROM image JOIN alike USING (sha256) JOIN kept ON kept.id = image.post
        )
        SELECT first, unit FROM linked WHERE first != unit
        """
    ).fetchall()
    _put_names(con, "linked", components(pairs))
    con.execute(
        f"""
        CREATE TABLE bound AS
        SELECT id, timestamp, held_out, coalesce(linked.root, {unit}) AS component
        FROM kept LEFT JOIN linked ON linked.name = {unit}
        """
    )
    train, validation = data.split[0], data.split[0] + data.split[1]
    if data.split_by == "time":
        # A moment parts posts and not components: of one that lies on both sides, only the posts on
        # the side of its earliest one stay.
        edges = [_moment(con, share) for share in (train, validation)]
        own, first = (
            f"CASE WHEN {column} < '{edges[0]}' THEN 'train' WHEN {column} < '{edges[1]}' THEN 'validation' ELSE 'test' END"
            for column in ("timestamp", "first_moment")
        )
        rule = f"CASE WHEN {own} = {first} THEN {own} END"
    else:
        # The lot is the component's, so that all of it falls into one split.
        rule = f"CASE WHEN lot < {train!r} THEN 'train' WHEN lot < {validation!r} THEN 'validation' ELSE 'test' END"
    con.execute(
        f"""
        CREATE TABLE placed AS
        WITH joined AS (
            SELECT id, timestamp, component, held_out, bool_or(held_out) OVER same AS beside_held_out,
                min(timestamp) OVER same AS first_moment, {uniform("split", "component")} AS lot
            FROM bound WINDOW same AS (PARTITION BY component)
        )
        SELECT id, CASE WHEN held_out THEN 'held_out' WHEN beside_held_out THEN NULL WHEN {uniform("judge", "component")} < {data.judge!r}
            THEN 'judge' ELSE {rule} END AS split
        FROM joined
        """,
        {"seed": str(seed)},
    )
    con.execute(
        """
        INSERT INTO reject BY NAME
        SELECT file, line, id AS post, 'image_repeated' AS code, row,
            'it shares an image, or nearly, with a post of another split that comes first' AS reason
        FROM kept JOIN placed USING (id) WHERE split IS NULL
        """
    )


def _moment(con: DuckDBPyConnection, share: float) -> str:
    """The timestamp before which this share of the posts lies."""
    [(count,)] = con.execute("SELECT count(*) FROM bound WHERE NOT held_out").fetchall()
    offset = max(0, min(round(count * share), count - 1))
    row = con.execute(
        f"SELECT timestamp FROM bound WHERE NOT held_out ORDER BY timestamp LIMIT 1 OFFSET {offset}"
    ).fetchall()
    return str(row[0][0]) if row else ""


def _sample(con: DuckDBPyConnection) -> None:
    """``sample``: one row per image; the second image of a post is called POST-2, unless a post has
    that id."""
    con.execute(
        """
        CREATE TABLE named AS
        SELECT image.*, if(place = 1, post, post || '-' || place) AS id,
            place > 1 AND post || '-' || place IN (SELECT id FROM kept) AS taken
        FROM image
        """
    )
    con.execute(
        f"""
        INSERT INTO reject BY NAME
        SELECT p.file, p.line, p.id AS post, n.reference AS image, 'duplicate_id' AS code,
            if(n.place = first.place, p.row, NULL) AS row, '{TAKEN}' || n.id AS reason
        FROM named n JOIN kept p ON p.id = n.post
            JOIN (SELECT post, min(place) AS place FROM named WHERE taken GROUP BY post) first ON first.post = n.post
        WHERE n.taken
        """
    )
    con.execute(
        """
        CREATE TABLE sample AS
        WITH more AS (SELECT id, list({'nr': nr, 'value': value, 'normalized': normalized, 'bucket': bucket} ORDER BY nr) AS more
            FROM kpi WHERE nr > 1 GROUP BY id),
        crowd AS (SELECT grp FROM named JOIN alike USING (sha256) WHERE NOT taken GROUP BY grp HAVING count(*) > 1)
        SELECT n.id, n.post, n.place, n.sha256, n.width, n.height, n.fingerprint, k.value AS kpi, k.normalized, k.bucket, s.split,
            crowd.grp AS grp, false AS negative, coalesce(more.more, []) AS more
        FROM named n JOIN placed s ON s.id = n.post JOIN kpi k ON k.id = n.post AND k.nr = 1
            JOIN alike USING (sha256) LEFT JOIN crowd ON crowd.grp = alike.grp LEFT JOIN more ON more.id = n.post
        WHERE s.split IS NOT NULL AND NOT n.taken
        """
    )


def _negate(con: DuckDBPyConnection, data: Data, seed: int) -> None:
    """Add negatives to ``sample``: copies of training samples with the image of another account's
    (or, if there is one account, another group's) training sample, and a KPI that is low whatever
    the text promises."""
    low, high = data.negative_kpi
    [(accounts, images)] = con.execute(
        "SELECT count(DISTINCT account), count(DISTINCT sha256) FROM sample s JOIN kept p ON p.id = s.post WHERE split = 'train'"
    ).fetchall()
    # Each try is a row of a join, so their number has an end; who finds nothing in them stays
    # without a negative.
    tries = min(32, int(images))
    # Candidates are drawn by a hash, a few for each negative, and the first that is unrelated is
    # taken.
    con.execute(
        f"""
        CREATE TABLE pool AS
        SELECT row_number() OVER (ORDER BY {uniform("pool", "s.id")}, s.id) - 1 AS nr, s.*, coalesce(s.grp, s.sha256) AS look, p.account
        FROM sample s JOIN kept p ON p.id = s.post WHERE s.split = 'train' AND s.place = 1
        """,
        {"seed": str(seed)},
    )
    [(size,)] = con.execute("SELECT count(*) FROM pool").fetchall()
    con.execute(
        f"""
        INSERT INTO sample BY NAME
        WITH chosen AS (
            SELECT *, {uniform("negative image", "id")} AS lot, {low!r} + ({high!r} - {low!r}) * {uniform("negative kpi", "id")} AS drawn
            FROM pool WHERE bucket IN ('high', 'medium') AND {uniform("negative", "id")} < {data.negatives!r}
        ), offered AS (
            SELECT c.*, o.sha256 AS other, o.width AS w, o.height AS h, o.fingerprint AS print, turn,
                row_number() OVER (PARTITION BY c.id ORDER BY turn) AS first
            FROM chosen c CROSS JOIN range({max(1, tries)}) AS t(turn)
                JOIN pool o ON o.nr = (floor(c.lot * {max(1, size)})::BIGINT + turn) % {max(1, size)}
            WHERE o.look != c.look AND ({1 if accounts > 1 else 0} = 0 OR o.account != c.account)
        )
        SELECT id || '{NEGATIVE}' AS id, post, place, other AS sha256, w AS width, h AS height, print AS fingerprint, drawn AS kpi, split,
            NULL AS grp, true AS negative, [] AS more, 'low' AS bucket,
            (SELECT round(100 * coalesce(avg(CASE WHEN k.value < drawn THEN 1 WHEN k.value = drawn THEN 0.5 ELSE 0 END), 0), 4)
             FROM kpi k JOIN kept p ON p.id = k.id WHERE k.nr = 1 AND p.account = offered.account) AS normalized
        FROM offered WHERE first = 1
        """,
        {"seed": str(seed)},
    )


def _put_names(con: DuckDBPyConnection, table: str, roots: dict[str, str]) -> None:
    """A table of names and what they hang together with."""
    import pyarrow as pa

    con.register(
        "arrow",
        pa.table(
            {
                "name": pa.array(list(roots), pa.string()),
                "root": pa.array(list(roots.values()), pa.string()),
            }
        ),
    )
    con.execute(f"CREATE TABLE {table} AS SELECT * FROM arrow")
    con.unregister("arrow")
