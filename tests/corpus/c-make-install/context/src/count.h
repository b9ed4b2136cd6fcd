int count(char **words);
