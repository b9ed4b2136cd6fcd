int yb;
