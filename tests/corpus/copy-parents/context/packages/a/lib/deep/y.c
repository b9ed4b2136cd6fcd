int ya;
