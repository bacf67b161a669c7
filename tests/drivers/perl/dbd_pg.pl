# DBD::Pg: named statements of its own (dbdpg_...), SQL placeholders, COPY, asynchronous queries.
use strict;
use warnings;
use utf8;
use DBI;
use DBD::Pg qw(:async :pg_types);
use Encode qw(encode);
use Time::HiRes qw(sleep);

binmode STDOUT, ':encoding(UTF-8)';
$| = 1;
my $T    = $ENV{TABLE} // 'items';
my $TEXT = "naïve 漢字 😀 \x{301} 'quoted' \\ \t";
my $BIG  = 4 << 20;
my @TAGS = ('plain', 'quo"te', 'comma,', 'back\\slash', '', undef, 'NULL', 'ü');

# Host, port, user, password and database are in the environment.
sub opened {
    my ($options, %attributes) = @_;
    return DBI->connect('dbi:Pg:' . ($options // ''), undef, undef, { RaiseError => 1, PrintError => 0, AutoCommit => 1, pg_server_prepare => 1, %attributes });
}
sub one { my ($c, $sql, @values) = @_; return ($c->selectrow_array($sql, undef, @values))[0] }

sub same {
    my ($got, $want) = map { $_ // 'undef' } @_[0, 1];
    $got eq $want or die sprintf "got %.80s, expected %.80s\n", $got, $want;
    return;
}

# Fails the step unless the body ends in an error of that SQLSTATE (without one: in any error).
sub raises {
    my ($want, $body) = @_;
    eval { $body->(); 1 } and die "no error, expected $want\n";
    die "$DBI::state $@" if $want && $DBI::state ne $want;
    return;
}

my @steps = (
    connect => sub {
        my ($c) = @_;
        same(one($c, 'SELECT 1'), 1);
        same($c->{pg_server_version} >= 140000, 1);
        $c->do("TRUNCATE $T");
    },
    crud => sub {
        my ($c) = @_;
        same($c->do("INSERT INTO $T(id, name) VALUES (?, ?), (2, 'b')", undef, 1, 'a'), 2);
        $c->do("UPDATE $T SET name = ? WHERE id = ?", undef, 'c', 1);
        same(one($c, "SELECT name FROM $T WHERE id = ?", 1), 'c');
        same($c->do("DELETE FROM $T"), 2);
    },
    transaction => sub {
        my ($c) = @_;
        $c->begin_work;
        $c->do("INSERT INTO $T(id) VALUES (?)", undef, $_) for 10, 11;
        $c->commit;
        same(one($c, "SELECT count(*) FROM $T WHERE id IN (10, 11)"), 2);
    },
    rollback => sub {
        my ($c) = @_;
        $c->begin_work;
        $c->do("INSERT INTO $T(id) VALUES (20)");
        $c->pg_savepoint('a');
        $c->do("INSERT INTO $T(id) VALUES (21)");
        $c->pg_rollback_to('a');
        same(one($c, "SELECT count(*) FROM $T WHERE id IN (20, 21)"), 1);
        $c->rollback;
        same(one($c, "SELECT count(*) FROM $T WHERE id IN (20, 21)"), 0);
    },
    prepared => sub {
        my ($c) = @_;
        my ($plus, $upper) = map { $c->prepare($_, { pg_prepare_now => 1 }) } 'SELECT ?::int + 1', 'SELECT upper(?::text)';
        for my $n (0 .. 29) {
            $plus->execute($n);
            same($plus->fetchrow_arrayref->[0], $n + 1);
            $upper->execute("n$n");
            same($upper->fetchrow_arrayref->[0], "N$n");
            $_->finish for $plus, $upper;
        }
    },
    reprepared => sub {
        my ($c) = @_;
        for my $n (0 .. 19) {    # each statement that goes is ended by the driver with DEALLOCATE
            my $again = $c->prepare('SELECT ?::int + ' . $n % 5, { pg_prepare_now => 1 });
            $again->execute($n);
            same($again->fetchrow_arrayref->[0], $n + $n % 5);
        }
        for my $n (0 .. 9) {     # the same name with another text
            my $again = $c->prepare("SELECT ?::int + $n", { pg_prepare_name => 'again' });
            $again->execute($n);
            same($again->fetchrow_arrayref->[0], $n + $n);
        }
    },
    batch => sub {
        my ($c) = @_;
        my $insert = $c->prepare("INSERT INTO $T(id) VALUES (?)");
        same($insert->execute_array({}, [100 .. 149]), 50);
        raises('22012', sub { $c->do('SELECT 1; SELECT 1 / 0; SELECT 2') });
    },
    copy => sub {
        my ($c) = @_;
        $c->do("COPY $T(id, name) FROM STDIN");
        $c->pg_putcopydata("$_\trow $_\n") for 1000 .. 1999;
        $c->pg_putcopyend;
        $c->do("COPY (SELECT id FROM $T WHERE id >= 1000) TO STDOUT");
        my ($row, $count) = ('', 0);
        $count++ while $c->pg_getcopydata($row) >= 0;
        same($count, 1000);
        $c->do("COPY $T(id) FROM STDIN");
        $c->pg_putcopydata("not a number\n");
        raises('22P02', sub { $c->pg_putcopyend });
        same(one($c, 'SELECT 1'), 1);
    },
    cursor => sub {
        my ($c) = @_;
        $c->begin_work;
        $c->do('DECLARE portal CURSOR FOR SELECT generate_series(1, 500)');
        my $sum = 0;
        for (1 .. 5) { $sum += $_->[0] for @{ $c->selectall_arrayref('FETCH 100 FROM portal') } }
        $c->commit;
        same($sum, 125250);
    },
    cancel => sub {
        my ($c) = @_;
        $c->do('SELECT pg_sleep(20)', { pg_async => PG_ASYNC });
        sleep 0.2;
        same($c->pg_cancel, 1);
        same(one($c, 'SELECT 1'), 1);
    },
    timeout => sub {
        my ($c) = @_;
        $c->begin_work;
        $c->do("SET LOCAL statement_timeout = '100ms'");
        raises('57014', sub { $c->do('SELECT pg_sleep(20)') });
        $c->rollback;
        same(one($c, 'SELECT 1'), 1);
    },
    error => sub {
        my ($c) = @_;
        my $by = $c->prepare('SELECT 10 / ?::int');
        raises('22012', sub { $by->execute(0) });
        $c->begin_work;
        raises('42703', sub { $c->do('SELECT nothing') });
        raises('25P02', sub { $c->do('SELECT 1') });
        $c->rollback;
        $by->execute(2);
        same($by->fetchrow_arrayref->[0], 5);
    },
    null => sub {
        my ($c) = @_;
        $c->do("INSERT INTO $T(id, name) VALUES (?, ?)", undef, 30, undef);
        same(one($c, "SELECT name FROM $T WHERE id = 30"), undef);
    },
    binary => sub {
        my ($c) = @_;
        my $all = join '', map { chr } 0 .. 255;
        my $insert = $c->prepare("INSERT INTO $T(id, data) VALUES (40, ?)");
        $insert->bind_param(1, $all, { pg_type => PG_BYTEA });
        $insert->execute;
        same(unpack('H*', one($c, "SELECT data FROM $T WHERE id = 40")), unpack('H*', $all));
    },
    array => sub {
        my ($c) = @_;
        $c->do("INSERT INTO $T(id, tags) VALUES (?, ?)", undef, 50, \@TAGS);
        my $found = one($c, "SELECT tags FROM $T WHERE id = 50");
        same(join('|', map { $_ // 'undef' } @$found), join('|', map { $_ // 'undef' } @TAGS));
    },
    unicode => sub {
        my ($c) = @_;
        same(one($c, 'SELECT ?::text', $TEXT), $TEXT);
        same(one($c, 'SELECT length(?::text)', $TEXT), length $TEXT);
    },
    latin1 => sub {
        my $c = opened("options='-c client_encoding=LATIN1'", pg_enable_utf8 => 0);
        for (1 .. 10) {
            same(one($c, "SELECT encode(convert_to(?, 'UTF8'), 'hex')", encode('latin1', 'é')), 'c3a9');
            same(one($c, 'SELECT chr(233)'), encode('latin1', 'é'));
        }
        $c->disconnect;
    },
    large => sub {
        my ($c) = @_;
        $c->do("INSERT INTO $T(id, name) VALUES (60, ?)", undef, 'x' x $BIG);
        same(length one($c, "SELECT name FROM $T WHERE id = 60"), $BIG);
        same(scalar @{ $c->selectall_arrayref("SELECT n, repeat('y', 100) FROM generate_series(1, 20000) n") }, 20000);
    },
    settings => sub {
        my ($c) = @_;
        $c->do("SET TIME ZONE 'Asia/Tokyo'");
        same(one($c, "SELECT current_setting('TimeZone')"), 'Asia/Tokyo') for 1 .. 20;
        $c->do('RESET TIME ZONE');
    },
    reconnect => sub {
        my ($c) = @_;
        for my $n (0 .. 4) {
            my $other = opened();
            same(one($other, 'SELECT ?::int', $n), $n);
            same($other->ping > 0, 1);
            $other->disconnect;
        }
        raises(undef, sub { $c->do('SELECT pg_terminate_backend(pg_backend_pid())') });
        my $other = opened();
        same(one($other, 'SELECT ?::int', 7), 7);
        $other->disconnect;
    },
);

print "version $DBD::Pg::VERSION\n";
my $failed = 0;
for (1 .. $ENV{LAPS} // 1) {
    my $c;
    for (my $n = 0; $n < @steps; $n += 2) {
        my ($name, $step) = @steps[$n, $n + 1];
        if (eval { $step->($c //= opened()); 1 }) { print "ok $name\n"; next }
        print "FAIL $name ", substr($@ =~ s/\s+/ /gr, 0, 160), "\n";
        $failed = 1;
        eval { $c->disconnect } if $c;
        undef $c;
    }
    $c->disconnect if $c;
}
exit $failed;
