echo "built in $PWD" > run; chmod +x run
