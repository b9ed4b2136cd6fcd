#!/bin/sh
echo "@GREETING@, $AUDIENCE: I am $(id -un), process $$, in $(hostname)"
