create database app;
\c app
create table t (n int);
insert into t select generate_series(1, 100);
