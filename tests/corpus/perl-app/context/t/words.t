use Test::More tests => 1;
use Words;
is(Words::count("one two"), 2);
