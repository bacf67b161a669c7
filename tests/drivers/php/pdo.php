<?php
// PHP PDO (pdo_pgsql): named statements of its own that it ends with SQL DEALLOCATE, or emulated ones; COPY.

const TEXT = "naïve 漢字 😀 \u{301} 'quoted' \\ \t";
const BIG = 4 << 20;
define('TABLE', getenv('TABLE') ?: 'items');

class Skip extends Exception {}

function opened(array $options = [], string $more = ''): PDO {
    $name = 'pgsql:host=' . getenv('PGHOST') . ';port=' . getenv('PGPORT') . ';dbname=' . getenv('PGDATABASE') . $more;
    return new PDO($name, getenv('PGUSER'), getenv('PGPASSWORD'), $options + [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
}

function query(PDO $c, string $sql, ...$values): PDOStatement {
    $s = $c->prepare($sql);
    $s->execute($values);
    return $s;
}

function one(PDO $c, string $sql, ...$values) {
    return query($c, $sql, ...$values)->fetchColumn();
}

function same($got, $want): void {
    if ($got !== $want) {
        throw new Exception(sprintf('got %.80s, expected %.80s', var_export($got, true), var_export($want, true)));
    }
}

// Fails the step unless the body ends in an error of that SQLSTATE (without one: in any error).
function raises(?string $want, callable $body): void {
    try {
        $body();
    } catch (PDOException $e) {
        if ($want !== null && $e->getCode() !== $want) throw $e;
        return;
    }
    throw new Exception("no error, expected $want");
}

$T = TABLE;
$steps = [
    'connect' => function (PDO $c) use ($T) {
        same(one($c, 'SELECT 1'), 1);
        same((int) $c->getAttribute(PDO::ATTR_SERVER_VERSION) >= 14, true);
        $c->exec("TRUNCATE $T");
    },
    'crud' => function (PDO $c) use ($T) {
        same(query($c, "INSERT INTO $T(id, name) VALUES (?, ?), (2, 'b')", 1, 'a')->rowCount(), 2);
        query($c, "UPDATE $T SET name = ? WHERE id = ?", 'c', 1);
        same(one($c, "SELECT name FROM $T WHERE id = ?", 1), 'c');
        same($c->exec("DELETE FROM $T"), 2);
    },
    'transaction' => function (PDO $c) use ($T) {
        $c->beginTransaction();
        query($c, "INSERT INTO $T(id) VALUES (?)", 10);
        query($c, "INSERT INTO $T(id) VALUES (?)", 11);
        $c->commit();
        same(one($c, "SELECT count(*) FROM $T WHERE id IN (10, 11)"), 2);
    },
    'rollback' => function (PDO $c) use ($T) {
        $c->beginTransaction();
        $c->exec("INSERT INTO $T(id) VALUES (20)");
        $c->exec("SAVEPOINT a; INSERT INTO $T(id) VALUES (21); ROLLBACK TO a");
        same(one($c, "SELECT count(*) FROM $T WHERE id IN (20, 21)"), 1);
        $c->rollBack();
        same(one($c, "SELECT count(*) FROM $T WHERE id IN (20, 21)"), 0);
    },
    'prepared' => function (PDO $c) {
        $plus = $c->prepare('SELECT ?::int + 1');
        $upper = $c->prepare('SELECT upper(?::text)');
        for ($n = 0; $n < 30; $n++) {
            $plus->execute([$n]);
            same($plus->fetchColumn(), $n + 1);
            $upper->execute(["n$n"]);
            same($upper->fetchColumn(), "N$n");
        }
    },
    'reprepared' => function (PDO $c) {
        for ($n = 0; $n < 20; $n++) { // each statement that goes is ended by the driver with DEALLOCATE pdo_stmt_...
            same(one($c, 'SELECT ?::int + ' . $n % 5, $n), $n + $n % 5);
        }
        $emulated = opened([PDO::ATTR_EMULATE_PREPARES => true]);
        $unnamed = opened([PDO::PGSQL_ATTR_DISABLE_PREPARES => true]);
        for ($n = 0; $n < 10; $n++) {
            same(one($emulated, 'SELECT ?::int', $n), $n);
            same(one($unnamed, 'SELECT ?::int', $n), $n);
        }
    },
    'batch' => function (PDO $c) use ($T) {
        $s = $c->prepare("INSERT INTO $T(id) VALUES (?)");
        $c->beginTransaction();
        for ($n = 100; $n < 150; $n++) $s->execute([$n]);
        $c->commit();
        same(one($c, "SELECT count(*) FROM $T WHERE id BETWEEN 100 AND 149"), 50);
        raises('22012', fn () => $c->exec('SELECT 1; SELECT 1 / 0; SELECT 2'));
    },
    'copy' => function (PDO $c) use ($T) {
        same($c->pgsqlCopyFromArray("$T(id, name)", array_map(fn ($n) => "$n\trow $n\n", range(1000, 1999))), true);
        same(count($c->pgsqlCopyToArray("(SELECT id FROM $T WHERE id >= 1000)")), 1000);
        raises(null, fn () => $c->pgsqlCopyFromArray("$T(id)", ["not a number\n"]));
        same(one($c, 'SELECT 1'), 1);
    },
    'cursor' => function (PDO $c) {
        $c->beginTransaction();
        $s = $c->prepare('SELECT generate_series(1, 500)', [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL]);
        $s->execute();
        $sum = 0;
        while (($n = $s->fetchColumn()) !== false) $sum += $n;
        same($sum, 125250);
        unset($s);
        $c->commit();
    },
    'cancel' => fn () => throw new Skip('the driver cannot cancel'),
    'timeout' => function (PDO $c) {
        $c->beginTransaction();
        $c->exec("SET LOCAL statement_timeout = '100ms'");
        raises('57014', fn () => query($c, 'SELECT pg_sleep(20)'));
        $c->rollBack();
        same(one($c, 'SELECT 1'), 1);
    },
    'error' => function (PDO $c) {
        $by = $c->prepare('SELECT 10 / ?::int');
        raises('22012', fn () => $by->execute([0]));
        $c->beginTransaction();
        raises('42703', fn () => query($c, 'SELECT nothing'));
        raises('25P02', fn () => $c->exec('SELECT 1'));
        $c->rollBack();
        $by->execute([2]);
        same($by->fetchColumn(), 5);
    },
    'null' => function (PDO $c) use ($T) {
        query($c, "INSERT INTO $T(id, name) VALUES (?, ?)", 30, null);
        same(one($c, "SELECT name FROM $T WHERE id = 30"), null);
    },
    'binary' => function (PDO $c) use ($T) {
        $all = implode('', array_map('chr', range(0, 255)));
        $s = $c->prepare("INSERT INTO $T(id, data) VALUES (40, ?)");
        $s->bindValue(1, $all, PDO::PARAM_LOB);
        $s->execute();
        same(stream_get_contents(one($c, "SELECT data FROM $T WHERE id = 40")), $all);
    },
    'array' => function (PDO $c) use ($T) {
        $tags = '{plain,"quo\"te","comma,","back\\\\slash","",NULL,"NULL",ü}';
        query($c, "INSERT INTO $T(id, tags) VALUES (?, ?)", 50, $tags);
        same(one($c, "SELECT tags FROM $T WHERE id = 50"), $tags);
    },
    'unicode' => function (PDO $c) {
        same(one($c, 'SELECT ?::text', TEXT), TEXT);
        same(one($c, 'SELECT octet_length(?::text)', TEXT), strlen(TEXT));
    },
    'latin1' => function () {
        $c = opened([], ";options='--client_encoding=LATIN1'");
        for ($n = 0; $n < 10; $n++) {
            same(one($c, "SELECT encode(convert_to(?, 'UTF8'), 'hex')", "\xe9"), 'c3a9');
            same(one($c, "SELECT '\xe9' || chr(233)"), "\xe9\xe9");
        }
    },
    'large' => function (PDO $c) use ($T) {
        query($c, "INSERT INTO $T(id, name) VALUES (60, ?)", str_repeat('x', BIG));
        same(strlen(one($c, "SELECT name FROM $T WHERE id = 60")), BIG);
        same(count($c->query("SELECT n, repeat('y', 100) FROM generate_series(1, 20000) n")->fetchAll()), 20000);
    },
    'settings' => function (PDO $c) {
        $c->exec("SET TIME ZONE 'Asia/Tokyo'");
        for ($n = 0; $n < 20; $n++) same(one($c, "SELECT current_setting('TimeZone')"), 'Asia/Tokyo');
        $c->exec('RESET TIME ZONE');
    },
    'reconnect' => function (PDO $c) {
        for ($n = 0; $n < 5; $n++) same(one(opened(), 'SELECT ?::int', $n), $n);
        raises(null, fn () => $c->exec('SELECT pg_terminate_backend(pg_backend_pid())'));
        same(one(opened(), 'SELECT ?::int', 7), 7);
    },
];

echo 'version ', phpversion('pdo_pgsql'), "\n";
$failed = false;
for ($lap = 0; $lap < (int) (getenv('LAPS') ?: 1); $lap++) {
    $c = null;
    foreach ($steps as $name => $step) {
        try {
            $step($c ??= opened());
            echo "ok $name\n";
        } catch (Skip $e) {
            echo "skip $name {$e->getMessage()}\n";
        } catch (Throwable $e) {
            $failed = true;
            echo "FAIL $name ", substr(preg_replace('/\s+/', ' ', get_class($e) . ': ' . $e->getMessage()), 0, 160), "\n";
            $c = null;
        }
    }
    $c = null;
}
exit($failed ? 1 : 0);
